"""What a run does to, and wants to know of, the machine and the checkout it runs in."""

import ctypes
import subprocess
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def keep_freed_memory() -> None:
    """Lets glibc reuse large freed blocks instead of returning them to the kernel.

    A step on the CPU allocates and frees the same activations each time; fetching their pages anew costs more than
    half of a step's time at batch sizes of 64 and above. Other C libraries have no such switch and need none.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def git_commit() -> str | None:
    """The checkout's commit, with `+changes` where files differ from it; None outside a git checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
