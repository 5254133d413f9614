"""Measures the default path against the slow reference of --plain. Both compute the same numbers, and take turns.

    python tools/benchmark.py
    python tools/benchmark.py --network resnet18 --image-size 32 --json benchmark.json
    python tools/benchmark.py --network resnet18 --image-size 128 --memory --train-images 15880 --test-images 19850

It runs ILM-VP on generated photographs (JPEGs of 500 x 375 pixels). The weights are random, since this does not change
the speed. For each network and image size it measures images a second in training steps and in forward passes (the
mapping pass and evaluation), and the seconds of a whole epoch from disk. The fast path has a cache of decoded images,
which an earlier epoch has made.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from statistics import median
from threading import Event, Thread

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from algorithms.label_mapping import frequency_label_mapping
from algorithms.predictions import PredictionCounter, count_predictions
from algorithms.training import evaluate, train_one_epoch
from data.folder import Folder
from data.loaders import build_data
from errors import unknown_name
from models.network_source import find_network
from models.networks import Execution, Network
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.visual_prompt import ExpansiveVisualPrompt
from tools.common.args import Parser, add_machine_flags, resolve_precision
from tools.common.command import run_command
from tools.common.files import write_json
from tools.common.flag_types import positive_int
from tools.common.machine import anonymous_memory, prepare_device

CASES = (("efficientnet_lite0", 128), ("resnet18", 32), ("resnet18", 128), ("resnet50", 32))
ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "efficientnet_lite0": lambda: timm.create_model("tf_efficientnet_lite0"),
    "resnet18": torchvision.models.resnet18,
    "resnet50": torchvision.models.resnet50,
}
CLASSES = 4


class Side:
    """One of the paths: a model, its optimizer, and loaders of the photographs.

    Args:
        path: "plain"; "fast", with a shared border, the default on the CPU; "dense", without one; "compiled", by
            torch.compile.
    """

    def __init__(self, path: str, name: str, size: int, folder: Path, args: argparse.Namespace):
        torch.manual_seed(0)
        row, plain = find_network(name), path == "plain"
        run = Execution(args.device, args.precision, plain, compile=path == "compiled", share_border=path == "fast")
        network = Network(ARCHITECTURES[name](), row, run, frozen=True, setup={})
        prompt, mapping = ExpansiveVisualPrompt(size, row.input_size), SelectLabels(CLASSES)
        mapping.set(torch.arange(CLASSES))
        self.model = Prompted(prompt, network, mapping)
        self.optimizer = torch.optim.Adam(prompt.parameters(), lr=0.01)
        self.scaler = torch.amp.GradScaler(args.device.type, enabled=args.precision == "float16")
        how = {name: getattr(args, name) for name in ("batch_size", "device", "workers", "gpu_cache_fraction")}
        how["cache_folder"] = None if plain else folder / ".cache"
        resize = [v2.Resize((size, size))]
        self.data = build_data(Folder().read(folder, "photographs"), train=resize, eval=resize, **how)
        self.batches = list(islice(cycle(self.data.train), args.steps))

    def training(self, batches=None) -> None:
        train_one_epoch(self.model, batches or self.batches, self.optimizer, self.scaler)

    def forward(self, batches=None) -> torch.Tensor:
        counter = PredictionCounter(1000, CLASSES)
        return count_predictions(self.model.source_logits, batches or self.batches, counter).counts

    def epoch(self) -> None:
        self.model.mapping.set(frequency_label_mapping(self.forward(self.data.train)))
        self.training(self.data.train)
        evaluate(self.model, self.data.test)

    def loading(self) -> None:
        """Reads all batches that an epoch reads."""
        for loader in (self.data.train, self.data.train, self.data.test):
            for _ in loader:
                pass


def main(argv: list[str] | None = None) -> list[dict]:
    parser = Parser(__file__, __doc__)
    parser.add_argument("--network", help=f"only this one of {', '.join(ARCHITECTURES)}")
    parser.add_argument("--image-size", type=positive_int, help="only this size, in pixels")
    parser.add_argument("--batch-size", type=positive_int, default=64, help="images; default 64")
    parser.add_argument("--steps", type=positive_int, default=2, help="batches of one measurement; default 2")
    parser.add_argument("--repeat", type=positive_int, default=5, help="measurements of each path; default 5")
    parser.add_argument("--train-images", type=positive_int, default=128, help="training images; default 128")
    parser.add_argument("--test-images", type=positive_int, default=64, help="test images; default 64")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    parser.add_argument("--memory", action="store_true", help="only measure the default path's peak memory")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    add_machine_flags(parser)
    args = parser.parse_args(argv)
    if args.network and args.network not in ARCHITECTURES:
        raise unknown_name("--network", args.network, ARCHITECTURES)
    args.precision = resolve_precision(args.precision, args.device)
    prepare_device(args.device)
    cases = [case for case in CASES if args.network in (None, case[0]) and args.image_size in (None, case[1])]
    if not cases:
        cases = [(name, args.image_size) for name in ([args.network] if args.network else ARCHITECTURES)]
    for _, size in cases:
        ExpansiveVisualPrompt(size, 224)  # refuses a larger image

    peak = multiplication_peak(args.device)
    print(f"{args.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {args.precision};", end=" ")
    print(f"float32 matrix multiplication {peak / 1e9:.0f} GFLOP/s; batches of {args.batch_size}", flush=True)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder) / "photographs", {"train": args.train_images, "test": args.test_images})
        for name, size in cases:
            rows = (
                [memory(name, size, Path(folder), args)] if args.memory else speed(name, size, Path(folder), args, peak)
            )
            print(*map(line, rows), sep="\n", flush=True)
            results += rows
    if args.json:
        write_json(args.json, results)
    return results


def speed(name: str, size: int, folder: Path, args: argparse.Namespace, peak: float) -> list[dict]:
    """One dict a phase: network, image_size, phase, each path's median, and the ratio of fast to plain."""
    paths = ["plain", "dense", "fast"] + ["compiled"] * args.compile
    sides = {path: Side(path, name, size, folder, args) for path in paths}
    rows = []
    for phase in ("training", "forward", "epoch"):
        seconds = by_turns({path: getattr(side, phase) for path, side in sides.items()}, args.repeat, args.device)
        images = sum(len(labels) for _, labels in sides["fast"].batches)
        row = {"network": name, "image_size": size, "phase": phase, "ratio": seconds["plain"] / seconds["fast"]}
        row |= {path: time if phase == "epoch" else images / time for path, time in seconds.items()}
        if phase == "training":
            row["dense_fraction_of_peak"] = image_flops(sides["plain"]) * row["dense"] / peak
        if phase == "epoch":
            loading = by_turns({"fast": sides["fast"].loading}, args.repeat, args.device)
            row["loading_fraction"] = loading["fast"] / seconds["fast"]
        rows.append(row)
    return rows


def memory(name: str, size: int, folder: Path, args: argparse.Namespace) -> dict:
    """Peak memory in bytes, without mapped files: of the network in steps on one batch, and of a whole epoch."""
    fast = Side("fast", name, size, folder, args)
    network = peak_memory(lambda: (fast.forward(), fast.training()))
    epoch = peak_memory(fast.epoch)
    return {"network": name, "image_size": size, "phase": "memory", "network_bytes": network, "epoch_bytes": epoch}


def line(row: dict) -> str:
    """A row for people to read."""
    text = f"{row['network']:20}{row['image_size']:4}  {row['phase']:9}"
    if row["phase"] == "memory":
        above = row["epoch_bytes"] - row["network_bytes"]
        return f"{text} {row['epoch_bytes'] / 1e9:.2f} GB at most, {above / 1e9:.2f} GB above the network's own"
    for path in ("plain", "dense", "fast", "compiled"):
        text += f"  {path} {row[path]:7.2f}" if path in row else ""
    text += f"  {'s' if row['phase'] == 'epoch' else 'images/s':9} {row['ratio']:5.2f} times"
    if "dense_fraction_of_peak" in row:
        text += f"; dense at {row['dense_fraction_of_peak']:.0%} of matrix multiplication"
    return text + (f"; loading {row['loading_fraction']:.1%}" if "loading_fraction" in row else "")


def by_turns(runs: dict[str, Callable], repeat: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each run, after one warm-up. The runs take turns, since the speed of a machine may drift."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeat + 1):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return {name: median(values) for name, values in seconds.items()}


def peak_memory(run: Callable) -> int:
    """The largest number of bytes that the process uses during `run`, read every 10 ms."""
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


def multiplication_peak(device: torch.device, size: int = 2048) -> float:
    """FLOP/s of a float32 matrix multiplication, the best of several."""
    a = torch.rand(size, size, device=device)
    times = []
    for _ in range(8):
        begin = time.perf_counter()
        (a @ a)[0, 0].item()
        times.append(time.perf_counter() - begin)
    return 2 * size**3 / min(times)


def image_flops(side: Side) -> int:
    """FLOPs of a training step for one image: the prompt's gradient is needed, no weight's is."""
    (x, y), counter = side.batches[0], FlopCounterMode(display=False)
    with counter:
        side.training([(x[:1], y[:1])])
    return counter.get_total_flops()


def write_photographs(folder: Path, counts: dict[str, int], different: int = 256) -> None:
    """JPEGs of 500 x 375 with as much detail as photographs: large shapes and a little noise; `different` contents."""
    generator = np.random.default_rng(0)
    for split, count in counts.items():
        files = [folder / split / f"class{number % CLASSES}" / f"{number}.jpg" for number in range(count)]
        for number, file in enumerate(files):
            file.parent.mkdir(parents=True, exist_ok=True)
            if number >= different:
                os.link(files[number % different], file)
                continue
            shapes = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            image = np.asarray(Image.fromarray(shapes).resize((500, 375), Image.Resampling.BICUBIC), np.int16)
            image = (image + generator.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(image).save(file, quality=90)


if __name__ == "__main__":
    run_command(main)
