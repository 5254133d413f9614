"""The machine and the checkout: settings that a run makes, and what it records about them."""

import ctypes
import gc
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CPU_INFO = Path("/proc/cpuinfo")


def prepare_device(device, plain: bool = False) -> None:
    """Prepares a torch.device for steps of equal shape. All steps of an epoch have it, except the last.

    Args:
        plain: on CUDA float32 means float32. By default torch's convolutions multiply in TF32 there.
    """
    if device.type == "cpu":
        _keep_freed_memory()
    elif device.type == "cuda":
        import torch

        if device.index is not None:  # else what a library makes on "the" GPU would lie on the first one
            torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        if plain:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def _keep_freed_memory() -> None:
    """Lets glibc reuse large freed blocks instead of returning them to the kernel.

    Each step on the CPU allocates and frees the same activations. Fetching their pages again takes more than half of a
    step's time at batch sizes of 64 and above. Other C libraries have no such setting and need none.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


@cache
def multiplies_bfloat16() -> bool:
    """Whether the CPU has matrix units for bfloat16 that torch can use: AMX, or on Arm bf16 with i8mm or SVE."""
    import torch  # late: commands that compute nothing use this file, too

    if not torch.backends.mkldnn.is_available():  # only oneDNN uses them
        return False
    found = _cpu_features(torch)
    if {"amx_bf16", "amx_tile"} <= found:
        return getattr(torch.cpu, "_init_amx", lambda: True)()  # the kernel has to permit it
    return "bf16" in found and bool(found & {"i8mm", "sve"})


def _cpu_features(torch) -> set[str]:
    """What the CPU can do, by torch's names, which are the kernel's; older torch versions do not know it all."""
    if hasattr(torch.cpu, "get_capabilities"):
        return {name for name, value in torch.cpu.get_capabilities().items() if value is True}
    with suppress(OSError):
        lines = CPU_INFO.read_text().splitlines()
        return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return set()


@contextmanager
def without_old_objects() -> Iterator[None]:
    """Inside it, Python's garbage collector looks only at new objects. The imports alone make half a million."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def environment(device) -> dict[str, str | None]:
    """Where a receipt's numbers came from: versions, the torch.device, the commit."""
    import torch  # late: commands that compute nothing use this file, too
    import torchvision

    return {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
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
    """Bytes of memory that this process uses, without mapped files; 0 if the kernel does not report it."""
    return used_memory("RssAnon")


def used_memory(kind: str = "VmRSS") -> int:
    """Bytes of memory that this process uses; 0 if the kernel does not report it. `kind` is the kernel's word."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{kind}:"):
                return int(line.split()[1]) * 1024
    return 0
