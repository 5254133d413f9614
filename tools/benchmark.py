"""Measures the ways to compute a step against the slow reference of --plain. All compute the same, and take turns.

    python tools/benchmark.py --quick
    python tools/benchmark.py
    python tools/benchmark.py --device cuda --json benchmark.json
    python tools/benchmark.py --network resnet18 --image-size 32 --compile
    python tools/benchmark.py --network resnet18 --image-size 128 --memory --train-images 15880 --test-images 19850

It runs ILM-VP on generated photographs (JPEGs of 500 x 375 pixels). The weights are random, since this does not change
the speed. For each network and image size it measures images a second in training steps and in forward passes (the
mapping pass and evaluation), and the seconds of a whole epoch. The paths are: plain; dense, without a shared border;
shared, with it; on CUDA also both as CUDA graphs. All but plain have a cache of decoded images, which an earlier epoch
has made. On CUDA it also counts a step's kernels, their time, the host's time, and the peak of the device's memory.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import tempfile
from contextlib import nullcontext
from datetime import date
from functools import partial

import torch

from errors import unknown_name
from models.visual_prompt import ExpansiveVisualPrompt
from tools.benchmarking.measure import by_turns, host_seconds, image_flops, kernels, multiplication_peak, peak_memory
from tools.benchmarking.sides import ARCHITECTURES, CLASSES, PATHS, Side, default_path, random_body, write_photographs
from tools.common.args import Parser, add_machine_flags
from tools.common.command import run_command
from tools.common.files import write_json
from tools.common.flag_types import positive_int
from tools.common.machine import prepare_device
from tools.common.precision import AUTO_BFLOAT16, resolve_precision

QUICK = (("efficientnet_lite0", 128), ("resnet18", 32))
CASES = {
    "cpu": (*QUICK, ("resnet18", 128), ("resnet50", 32)),
    "cuda": tuple((name, size) for name in ARCHITECTURES for size in (32, 128)),
    "quick": QUICK,
}
EPOCHS_ON_CUDA = (("efficientnet_lite0", 128), ("resnet18", 128))  # the others would take minutes
SETTINGS = {  # whether quick, and on CUDA -> the flags that are not given
    (False, False): {"batch_size": 64, "steps": 2, "repeat": 5, "train_images": 128, "test_images": 64},
    (True, False): {"batch_size": 16, "steps": 1, "repeat": 2, "train_images": 128, "test_images": 64},
    (False, True): {"batch_size": 128, "steps": 20, "repeat": 3, "train_images": 4096, "test_images": 4096},
    (True, True): {"batch_size": 128, "steps": 10, "repeat": 2, "train_images": 4096, "test_images": 4096},
}
HELP = {
    "batch_size": "images; default 64, on CUDA 128",
    "steps": "batches of one measurement; default 2, on CUDA 20",
    "repeat": "measurements of each path; default 5, on CUDA 3",
    "train_images": "training images of an epoch; default 128, on CUDA 4096",
    "test_images": "test images; default 64, on CUDA 4096",
}


def main(argv: list[str] | None = None) -> list[dict]:
    args = parse(argv)
    cuda = on_gpu(args.device)
    kind = "quick" if args.quick else "cuda" if cuda else "cpu"
    cases = [case for case in CASES[kind] if args.network in (None, case[0]) and args.image_size in (None, case[1])]
    if not cases:
        sizes = [args.image_size] if args.image_size else [128]
        cases = [(name, size) for name in ([args.network] if args.network else ARCHITECTURES) for size in sizes]
    for _, size in cases:
        ExpansiveVisualPrompt(size, 224)  # refuses a larger image
    prepare_device(args.device)
    results = []
    with tempfile.TemporaryDirectory() as folder, torch.cuda.device(args.device) if cuda else nullcontext():
        about = machine(args)
        print(f"{about['device']}, {about['threads']} threads, torch {about['torch']}, {args.precision};", end=" ")
        print(f"multiplication {about['flops'] / 1e9:.0f} GFLOP/s; batches of {args.batch_size}", flush=True)
        for name, size in cases:
            measured = [memory(name, size, Path(folder), args)] if args.memory else []
            measured = measured or speed(name, size, Path(folder), args, about["flops"])
            print(*map(line, measured), sep="\n", flush=True)
            results += measured
    if args.json:
        write_json(args.json, about | {"batch_size": args.batch_size, "rows": results})
    return results


def on_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(__file__, __doc__)
    parser.add_argument("--network", help=f"only this one of {', '.join(ARCHITECTURES)}")
    parser.add_argument("--image-size", type=positive_int, help="only this size, in pixels")
    parser.add_argument("--quick", action="store_true", help="about a minute: fewer cases, images and turns, no epoch")
    for name, text in HELP.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=positive_int, help=text)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    parser.add_argument("--memory", action="store_true", help="only measure the default path's peak memory")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    add_machine_flags(parser)
    args = parser.parse_args(argv)
    if args.network and args.network not in ARCHITECTURES:
        raise unknown_name("--network", args.network, ARCHITECTURES)
    args.precision = resolve_precision(args.precision, args.device, AUTO_BFLOAT16)
    for name, value in SETTINGS[args.quick, on_gpu(args.device)].items():
        setattr(args, name, getattr(args, name) or value)
    return args


def machine(args: argparse.Namespace) -> dict:
    """What the figures belong to. `flops` is that of a multiplication in the precision's type, a second."""
    cuda = on_gpu(args.device)
    return {
        "device": torch.cuda.get_device_name(args.device) if cuda else str(args.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": args.precision,
        "date": str(date.today()),
        "flops": multiplication_peak(args.device, getattr(torch, args.precision)),
    }


def photographs(folder: Path, train: int, test: int) -> Path:
    """A folder of so many photographs, written once."""
    place = folder / f"{train}_{test}"
    if not place.exists():
        write_photographs(place / "photographs", {"train": train, "test": test})
    return place


def speed(name: str, size: int, folder: Path, args: argparse.Namespace, peak: float) -> list[dict]:
    """One dict a phase: network, image_size, phase, the default path's name, each path's median, and the ratio of the
    default to plain; in training also the dense path's fraction of the `peak`, FLOP/s. On CUDA also what
    `on_the_device` gives, and `peak_bytes`: the device's memory that steps take above weights and images."""
    cuda, default = on_gpu(args.device), default_path(args.device)
    epoch = not args.quick and (not cuda or (name, size) in EPOCHS_ON_CUDA)
    images = (args.train_images, args.test_images) if epoch else (max(args.batch_size, CLASSES), CLASSES)
    place, body = photographs(folder, *images), random_body(name)
    paths = ["plain", "dense", "shared"] + ["graphed", "graphed_shared"] * cuda + ["compiled"] * args.compile
    rows, sides, peaks = [], {}, {}
    for path in paths:
        sides[path] = Side(path, body, name, size, place, args)
        if cuda:
            before = torch.cuda.memory_allocated(args.device)
            peaks[path] = peak_memory(sides[path].training, args.device) - before
    for phase in ("training", "forward"):
        runs = {path: getattr(side, phase) for path, side in sides.items()}
        seconds = by_turns(runs, args.repeat, args.device)
        counted = sum(len(labels) for _, labels in sides["dense"].batches)
        row = {"network": name, "image_size": size, "phase": phase, "default": default}
        row |= {path: counted / taken for path, taken in seconds.items()}
        row["ratio"] = row[default] / row["plain"]
        if phase == "training":
            row["dense_fraction_of_peak"] = image_flops(sides["plain"]) * row["dense"] / peak
        if cuda:
            row |= on_the_device(sides, phase, args) | ({"peak_bytes": peaks} if phase == "training" else {})
        rows.append(row)
    return rows + ([whole_epoch(sides, rows[0], args)] if epoch else [])


def on_the_device(sides: dict[str, Side], phase: str, args: argparse.Namespace) -> dict:
    """For each path, of one step: the number of `kernels`, `kernel_ms` in which they run, `host_ms` to launch them."""
    row: dict = {"kernels": {}, "kernel_ms": {}, "host_ms": {}}
    for path, side in sides.items():
        run, batch = getattr(side, phase), side.batches[0]
        row["host_ms"][path] = 1000 * host_seconds(run, [batch] * 3, args.device)
        one, two = (kernels(partial(run, [batch] * steps)) for steps in (1, 2))
        row["kernels"][path], row["kernel_ms"][path] = two[0] - one[0], 1000 * (two[1] - one[1])
    return row


def whole_epoch(sides: dict[str, Side], about: dict, args: argparse.Namespace) -> dict:
    """Seconds of an epoch from the cache: mapping, training, test. On CUDA plain, without a cache, is left out."""
    cuda, default = on_gpu(args.device), about["default"]
    runs = {path: side.epoch for path, side in sides.items() if not (cuda and path == "plain")}
    row = {key: about[key] for key in ("network", "image_size", "default")} | {"phase": "epoch"}
    row |= by_turns(runs, 2 if cuda else args.repeat, args.device)
    loading = by_turns({"loading": sides[default].loading}, args.repeat, args.device)["loading"]
    row["loading_fraction"] = loading / row[default]
    if cuda:
        row["kernel_seconds"] = kernels(sides[default].epoch)[1]
    else:
        row["ratio"] = row["plain"] / row[default]
    return row


def memory(name: str, size: int, folder: Path, args: argparse.Namespace) -> dict:
    """Peak memory in bytes, without mapped files: of the network in steps on one batch, and of a whole epoch."""
    place = photographs(folder, args.train_images, args.test_images)
    side = Side(default_path(args.device), random_body(name), name, size, place, args)
    network = peak_memory(lambda: (side.forward(), side.training()), args.device)
    epoch = peak_memory(side.epoch, args.device)
    return {"network": name, "image_size": size, "phase": "memory", "network_bytes": network, "epoch_bytes": epoch}


def line(row: dict) -> str:
    """A row for people to read."""
    text = f"{row['network']:20}{row['image_size']:4}  {row['phase']:9}"
    if row["phase"] == "memory":
        above = row["epoch_bytes"] - row["network_bytes"]
        return f"{text} {row['epoch_bytes'] / 1e9:.2f} GB at most, {above / 1e9:.2f} GB above the network's own"
    paths = [path for path in PATHS if path in row]
    text += "".join(f"  {path} {row[path]:7.2f}" for path in paths)
    text += f"  {'s' if row['phase'] == 'epoch' else 'images/s':9}"
    text += f"{row['ratio']:5.2f} times" if "ratio" in row else ""
    if "dense_fraction_of_peak" in row:
        text += f"; dense at {row['dense_fraction_of_peak']:.0%} of matrix multiplication"
    text += f"; loading {row['loading_fraction']:.1%}" if "loading_fraction" in row else ""
    text += f"; {row['kernel_seconds']:.2f} s of kernels" if "kernel_seconds" in row else ""
    for figure, unit in (("kernels", "a step"), ("kernel_ms", "a step"), ("host_ms", "a step"), ("peak_bytes", "")):
        if figure in row:
            values = "".join(f"  {path} {row[figure][path]:.{2 * figure.endswith('ms')}f}" for path in paths)
            text += f"\n{'':26}{figure} {unit}:{values}"
    return text


if __name__ == "__main__":
    run_command(main)
