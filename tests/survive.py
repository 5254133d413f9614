"""Runs under hardship, for real: killed at random moments, on a full disk, and long ones.

    python tests/survive.py kill --times 20 --seed 0
    python tests/survive.py space
    python tests/survive.py long --epochs 200

The run is ILM-VP's, of the tests' tiny network on generated images, in processes of its own. Linux (`fork`, /proc).
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from conftest import load_script, same
from make_data import make_folders
from PIL import Image
from tiny import SMALL, TINY

import cfg
from algorithms import training
from data import catalog, fetching
from models.network_source import NETWORKS
from tools.common import run as runs
from tools.common import run_folder as folders
from tools.common.checkpoint import load_checkpoint
from tools.common.command import run_command
from tools.common.machine import anonymous_memory

FLAGS = ("--network", "tiny", "--dataset", "small", "--device", "cpu")
PHASES = {  # of a run -> where the function is found that carries it out
    "cache build": (fetching, "cached_pixels"),
    "mapping pass": (runs, "count_predictions"),
    "step": (training, "train_one_epoch"),
    "evaluation": (training, "evaluate"),
    "checkpoint": (folders, "save_checkpoint"),
}


def prepare(folder: Path) -> None:
    """Data and results in `folder`, and names that the scripts then know."""
    torch.set_num_threads(1)  # a fork that computes on several threads hangs
    cfg.data_path, cfg.results_path = folder / "datasets", folder / "results"
    NETWORKS["tiny"] = TINY
    catalog.DATASETS = (*(row for row in catalog.DATASETS if row.name != "small"), SMALL)
    make_folders(cfg.data_path, "small", classes=("ant", "bee", "cow"), counts={"train": 16, "val": 5, "test": 9})


def in_own_process(act: Callable[[], object], output: Path) -> int:
    """Calls `act` in a fork, its words in a file; returns the exit code, negative for a signal."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        code = 1
        try:
            with output.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
                run_command(act)
            code = 0
        except SystemExit as end:
            code = end.code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(epochs: int) -> Callable[[], dict]:
    return lambda: load_script("experiments/cnn/ilm_vp").main([*FLAGS, "--epoch", str(epochs)])


def run_folder(epochs: int) -> Path:
    return cfg.results_path / "cnn" / "ilm_vp" / f"tiny_small_seed7_epoch{epochs}"


def outcome(folder: Path) -> tuple[dict, list[dict], dict]:
    """What has to be the same in two runs: receipt and log without their times, and the checkpoint."""
    times = ("seconds", "images_per_second", "figure_seconds")
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    receipt = json.loads((folder / "result.json").read_text())
    records = [{name: value for name, value in each.items() if name not in times} for each in (receipt, *log)]
    return records[0], records[1:], load_checkpoint(folder / "ckpt.pth", "")


def check_readable(folder: Path) -> None:
    """Raises if a file of the run is incomplete. Only the log's last line may be: it is written again."""
    for file in folder.glob("[!.]*.json"):
        json.loads(file.read_text())
    for file in folder.glob("[!.]*.pth"):
        load_checkpoint(file, "")
    for file in folder.glob("[!.]*.png"):
        Image.open(file).load()
    if (folder / "log.jsonl").exists():
        for line in (folder / "log.jsonl").read_text().splitlines()[:-1]:
            json.loads(line)


# Killed -------------------------------------------------------------------------------------------------------------


class Watch:
    """Records a run's phases and their times. Kills the run `delay` s after the `number`-th start of `phase`."""

    def __init__(self, notes: Path, phase: str = "", number: int = 0, delay: float = 0.0):
        self.notes, self.phase, self.number, self.delay = notes, phase, number, delay
        self.now, self.calls, self.seconds = "between", Counter(), {name: [] for name in PHASES}
        for name, (module, function) in PHASES.items():
            setattr(module, function, self.watched(name, getattr(module, function)))

    def watched(self, name: str, function: Callable) -> Callable:
        def call(*args, **kwargs):
            self.calls[name] += 1
            if (name, self.calls[name]) == (self.phase, self.number):
                threading.Thread(target=self.kill, daemon=True).start()
            before, self.now, begin = self.now, name, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name].append(time.perf_counter() - begin)
                self.now = before

        return call

    def kill(self) -> None:
        time.sleep(self.delay)
        self.notes.write_text(self.now)
        os.kill(os.getpid(), signal.SIGKILL)


def kill(folder: Path, times: int, seed: int, epochs: int = 80) -> Counter:
    """Kills a run again and again, continues it, and compares it with an undisturbed one; returns kills by phase."""
    prepare(folder)
    notes, output, path = folder / "notes", folder / "output", run_folder(epochs)

    def undisturbed() -> None:
        watch = Watch(notes)
        train(epochs)()
        notes.write_text(json.dumps(watch.seconds))

    assert in_own_process(undisturbed, output) == 0, output.read_text()
    seconds = {name: median(values) for name, values in json.loads(notes.read_text()).items()}
    expected = outcome(path)
    shutil.rmtree(path)
    draw, killed = random.Random(seed), Counter()
    for number in range(times):
        phase = list(PHASES)[number % len(PHASES)]
        if phase == "cache build":
            shutil.rmtree(cfg.data_path / ".cache")
        plan = (phase, draw.randint(1, 3), draw.uniform(0, seconds[phase]))

        def disturbed(plan=plan) -> None:
            Watch(notes, *plan)
            train(epochs)()

        code = in_own_process(disturbed, output)
        assert code == -signal.SIGKILL, f"{plan}: ended with {code}\n{output.read_text()}"
        killed[notes.read_text()] += 1
        check_readable(path)
    assert in_own_process(train(epochs), output) == 0, output.read_text()
    assert "Continuing after epoch" in output.read_text()
    found = outcome(path)
    assert found[:2] == expected[:2] and same(found[2], expected[2])
    return killed


# A full disk --------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of `size` bytes. Raises PermissionError where that cannot be mounted."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if done.returncode:
        raise PermissionError(done.stderr.decode())
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(disk: Path, free: int) -> None:
    """Leaves so many bytes free."""
    with (disk / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, max(1, shutil.disk_usage(disk).free - free))


FREE = (*range(0, 2**16, 2**14), *range(2**16, 2**19, 2**16), 2**21)


def space(folder: Path, epochs: int = 5, sizes: Sequence[int] = FREE) -> dict[int | str, str]:
    """Continues a half-done run with `sizes` bytes free, then with enough space. Returns its output by free bytes."""
    prepare(folder)
    notes, output, path = folder / "notes", folder / "output", run_folder(epochs)
    assert in_own_process(train(epochs), output) == 0, output.read_text()
    expected = outcome(path)
    shutil.rmtree(path)

    def half() -> None:
        Watch(notes, "mapping pass", 3)
        train(epochs)()

    assert in_own_process(half, output) == -signal.SIGKILL
    half_done = folder / "half"
    shutil.copytree(path, half_done)
    before = load_checkpoint(half_done / "ckpt.pth", "")["epoch"]
    said = {}
    with small_disk(folder / "disk", 8 * 2**20) as disk:
        cfg.results_path = disk
        for free in sizes:
            shutil.rmtree(run_folder(epochs).parent, ignore_errors=True)
            shutil.copytree(half_done, run_folder(epochs))
            fill(disk, free)
            code = in_own_process(train(epochs), output)
            words = output.read_text()
            message = [line for line in words.splitlines() if line.strip()][-3:] if code else []
            assert code in (0, 1, 2) and "Traceback" not in words, words
            assert not code or ("No space left" in message[1] and words.count("No space left") == 1), words
            check_readable(run_folder(epochs))
            assert load_checkpoint(run_folder(epochs) / "ckpt.pth", "")["epoch"] >= before
            said[free] = message[0] if code else "enough"
            (disk / "filler").unlink()
            assert in_own_process(train(epochs), output) == 0, output.read_text()
            found = outcome(run_folder(epochs))
            assert found[:2] == expected[:2] and same(found[2], expected[2])
        cfg.data_path = shutil.copytree(cfg.data_path, disk / "datasets", ignore=lambda *_: [".cache"])
        cfg.results_path = folder / "elsewhere"
        fill(disk, 2**13)
        assert in_own_process(train(epochs), output) == 0, output.read_text()
        words = output.read_text()
        assert "no cache in" in words and "Traceback" not in words, words
        found = outcome(run_folder(epochs))
        assert found[:2] == expected[:2] and same(found[2], expected[2])
        said["8192 bytes for the cache"] = "goes on without it"
    return said


# Long ---------------------------------------------------------------------------------------------------------------


def long(folder: Path, epochs: int) -> dict[int, tuple[int, int]]:
    """Memory in bytes and open files after epoch 5 and after the last one."""
    prepare(folder)
    notes, output = folder / "notes", folder / "output"

    def measured() -> None:
        found, end_epoch = {}, folders.RunFolder.end_epoch

        def measure(self, epoch: int, record: dict) -> None:
            end_epoch(self, epoch, record)
            if epoch + 1 in (5, epochs):
                found[epoch + 1] = (anonymous_memory(), len(os.listdir("/proc/self/fd")))

        folders.RunFolder.end_epoch = measure
        train(epochs)()
        notes.write_text(json.dumps(found))

    assert in_own_process(measured, output) == 0, output.read_text()
    return {int(epoch): tuple(values) for epoch, values in json.loads(notes.read_text()).items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hardship", choices=("kill", "space", "long"))
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=200)
    args = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        if args.hardship == "kill":
            killed = dict(kill(Path(folder), args.times, args.seed))
            print(f"Killed and continued: {killed}. Equal to an undisturbed run.")
        elif args.hardship == "space":
            for free, message in space(Path(folder)).items():
                print(f"{free:>9} bytes free: {message}" if isinstance(free, int) else f"{free}: {message}")
        else:
            for epoch, (memory, files) in long(Path(folder), args.epochs).items():
                print(f"after epoch {epoch:>4}: {memory / 1e6:.1f} MB, {files} open files")
    print(f"{time.monotonic() - begin:.0f} s")
