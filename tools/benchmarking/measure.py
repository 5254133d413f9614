"""Seconds, bytes, kernels and floating-point operations of a function, on the CPU or a CUDA device."""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from statistics import median
from threading import Event, Thread

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tools.common.machine import anonymous_memory


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that one call takes; on CUDA those between two events, until all of its work is done."""
    if device.type != "cuda":
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    run()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000


def by_turns(runs: dict[str, Callable[[], object]], repeat: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each run, after one warm-up. The runs take turns, since the speed of a machine may drift."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeat + 1):
        for name, run in runs.items():
            taken = seconds_of(run, device)
            if number:
                seconds[name].append(taken)
    return {name: median(values) for name, values in seconds.items()}


def host_seconds(run: Callable[[Iterable], object], batches: list, device: torch.device) -> float:
    """Median seconds from one batch to the next, as the host sees it.

    Args:
        run: goes over the batches that it gets.
        batches: so few that the device's queue is never full.
    """
    stamps = []

    def stamped() -> Iterator:
        for batch in batches:
            stamps.append(time.perf_counter())
            yield batch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    run(stamped())
    return median(after - before for before, after in pairwise(stamps))


def kernels(run: Callable[[], object]) -> tuple[int, float]:
    """How many kernels run on the CUDA device, copies not counted, and their seconds in all, copies included."""
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * torch.cuda.is_available()]) as profiler:
        run()
    events = [event for event in profiler.events() if event.device_type == DeviceType.CUDA]
    events = [event for event in events if not event.name.startswith("Optimizer.")]  # an annotation, no kernel
    count = sum(not event.name.startswith(("Memcpy", "Memset")) for event in events)
    return count, sum(event.time_range.elapsed_us() for event in events) / 1e6


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """The largest number of bytes in use during `run`: of the CUDA device by this process's tensors, else of its host's
    memory, without mapped files, read every 10 ms."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device)
    seen, done = [anonymous_memory()], Event()

    def watch() -> None:
        while not done.wait(0.01):
            seen.append(anonymous_memory())

    thread = Thread(target=watch)
    thread.start()
    try:
        run()
    finally:
        done.set()
        thread.join()
    return max(seen)


def multiplication_peak(device: torch.device, dtype: torch.dtype, most: float = 3.0) -> float:
    """FLOP/s of a matrix multiplication, the best of eight, or of fewer that took `most` seconds.

    The sides are 8192 on CUDA and 2048 elsewhere.
    """
    size = 8192 if device.type == "cuda" else 2048
    a, times = torch.rand(size, size, device=device).to(dtype), []
    while len(times) < 8 and sum(times) < most:
        times.append(seconds_of(lambda: (a @ a)[0, 0].item(), device))
    return 2 * size**3 / min(times)


def image_flops(side) -> int:
    """FLOPs of a training step for one image: the prompt's gradient is needed, no weight's is."""
    (x, y), counter = side.batches[0], FlopCounterMode(display=False)
    with counter:
        side.training([(x[:1], y[:1])])
    return counter.get_total_flops()
