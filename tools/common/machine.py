"""What a run does to, and wants to know of, the machine and the checkout it runs in."""

import ctypes
import gc
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def prepare_device(device) -> None:
    """Settings of a torch.device for steps of one shape, as all of an epoch are but the last."""
    if device.type == "cpu":
        _keep_freed_memory()
    elif device.type == "cuda":
        import torch

        torch.backends.cudnn.benchmark = True


def _keep_freed_memory() -> None:
    """Lets glibc reuse large freed blocks instead of returning them to the kernel.

    A step on the CPU allocates and frees the same activations each time. To fetch their pages anew costs more than half
    of a step's time at batch sizes of 64 and above. Other C libraries have no such switch and need none.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


@contextmanager
def without_old_objects() -> Iterator[None]:
    """Within it, Python's collector of cycles looks at new objects alone. The imports alone bring half a million."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def environment(device) -> dict[str, str | None]:
    """What a receipt says of where a number came from: versions, the torch.device, commit."""
    import torch  # late: commands that compute nothing use this file, too

    return {
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "git_commit": git_commit(),
    }


@cache
def git_commit() -> str | None:
    """The checkout's commit, with `+changes` where files differ from it; None outside a git checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def anonymous_memory() -> int:
    """Bytes of memory that this process has in use, mapped files not counted; 0 where the kernel does not tell."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0
