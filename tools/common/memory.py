"""How much memory activations may take: what is free on the device, or what --memory says."""

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from algorithms.pieces import Pieces
from tools.common.machine import used_memory

_ROOT = Path("/")
# Images in a piece, in training and without gradients, that were fastest on a CPU with AVX2 and small caches. With
# AVX-512 and larger caches pieces gain nothing. Other CPUs have not been measured.
_FAST = {"AVX2": (32, 8)}


def pieces_for(memory: float | None, device, plain: bool = False) -> Pieces:
    """In which pieces batches are computed on a torch.device.

    Args:
        memory: what the run may use, in GB (10^9 bytes); None, `auto`: half of what is free.
        plain: batches are not cut for the caches' sake.
    """
    import torch  # late: commands that compute nothing read these flags, too

    cached = device.type == "cpu" and not plain
    return Pieces(
        partial(budget, memory, device), _FAST.get(torch.backends.cpu.get_cpu_capability()) if cached else None
    )


def budget(memory: float | None, device) -> float:
    """Bytes that activations may take on a torch.device; infinite if `auto` cannot find out what is free."""
    if memory is not None:
        return max(0.0, memory * 1e9 - _used(device))
    free = _free_on_gpu(device) if device.type == "cuda" else free_on_host()
    if free is None:
        return float("inf")
    sharing = 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's, one machine's
    return free / 2 / sharing


def _used(device) -> int:
    import torch

    return torch.cuda.memory_allocated(device) if device.type == "cuda" else used_memory()


def _free_on_gpu(device) -> int:
    """Bytes that are free, also those that torch has reserved and does not use."""
    import torch

    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + reserved


def free_on_host(root: Path = _ROOT) -> int | None:
    """Bytes of the host's memory that are free, at most what this process's control groups leave; None if unknown.

    Where the kernel does not say what is free, it is half of the whole memory.

    Args:
        root: the folder that has `proc` and `sys`.
    """
    free = _groups_free(root)
    with suppress(OSError, ValueError):
        lines = (line.split() for line in (root / "proc/meminfo").read_text().splitlines())
        return min([*free, *(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")])
    with suppress(OSError, ValueError, AttributeError):  # macOS; Windows has no sysconf
        return min([*free, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2])
    return min(free, default=None)


def _groups_free(root: Path) -> list[int]:
    """What each control group of this process leaves, of those with a limit: its limit less what it uses.

    Read files that the kernel could drop are not counted as used. In a container the folder of the own group is often
    not to be seen. Its parents are looked at, too.
    """
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):  # version 2, version 1
                mount = root / "sys/fs/cgroup" / controllers
                groups = [mount, *(mount / part for part in _parents(path))]
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                names = names if controllers else ("memory.max", "memory.current", "inactive_file")
                if free := [left for group in groups if (left := _left(group, *names)) is not None]:
                    return free
    return []


def _parents(path: str) -> list[str]:
    parts = path.strip("/").split("/")
    return ["/".join(parts[: count + 1]) for count in range(len(parts))] if parts != [""] else []


def _left(group: Path, limit: str, usage: str, droppable: str) -> int | None:
    with suppress(OSError, ValueError):
        most, used = int((group / limit).read_text()), int((group / usage).read_text())  # "max" is a ValueError
        lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        dropped = sum(int(words[1]) for words in lines if words[0] == droppable)
        return max(0, most - used + dropped) if most < 2**60 else None  # version 1 has no word for no limit
    return None
