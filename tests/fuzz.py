"""Damages the files that the readers read, one mutation after another, and checks what the readers do.

python tests/fuzz.py                              every kind of file, as often as tests/test_fuzz.py does it
python tests/fuzz.py lmdb --mutations 5000
python tests/fuzz.py lmdb --only 417              that one mutation again, with its traceback

A mutation must end in a UserError or in data that fuzz_kinds.py finds right. A separate process reads one mutation
after another. If that process ends or hangs, the mutation that it was reading has failed.
"""

import argparse
import io
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import torch
from fuzz_kinds import KINDS, WAYS, Kind, damaged, equal, prepare

from errors import UserError

HANG = 10.0  # seconds after which a mutation counts as a hang
SLOW = 5.0  # seconds that no mutation should take
MEMORY = 4 << 30  # bytes of address space that reading may take
LINES = 20  # of a message
WARNINGS = 3  # beside an error; beside data there is none
NOISE = 50  # lines that C libraries print: libtiff does one for every row of a fax that it cannot read, 44 here


@dataclass
class Report:
    """The outcomes of the mutations of a kind: `same` is data as if nothing had been damaged, `other` is other data."""

    outcomes: Counter = field(default_factory=Counter)
    seconds: float = 0.0
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)


class Fuzz:
    """A kind's files in a folder, and what is read while they are whole."""

    def __init__(self, name: str, kind: Kind, folder: Path, seed: int):
        self.name, self.kind, self.seed = name, kind, seed
        self.noise = folder / "stderr"
        self.proof = prepare(folder)
        self.whole = {file: file.read_bytes() for file in kind.make(folder / "data")}
        self.hot = {file: list(kind.hot(content)) for file, content in self.whole.items()}
        self.before: dict[tuple[Path, int], dict] = {}

    def start(self, number: int) -> tuple[Path, int]:
        """Damages a file; returns it and the way to read it."""
        random = Random(f"{self.name} {self.seed} {number}")
        file, other = random.choices(list(self.whole), k=2)
        content = self.whole[file]
        if self.kind.mutate and random.random() < 0.5:
            content = self.kind.mutate(content, random)
        if content == self.whole[file]:
            content = damaged(content, random, self.hot[file], self.whole[other])
        replace(file, content)
        return file, random.choice(WAYS)

    def finish(self, file: Path, way: int) -> str:
        """Reads the damaged file: "error", "same" or "other". Raises AssertionError if the outcome is none of these."""
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                after = self.kind.look(file, way)
        except UserError as error:
            lines = str(error).splitlines()
            assert len(lines) <= LINES and max(map(len, lines)) < 1000, f"a message of {len(lines)} lines: {error}"
            assert names(str(error), file), f"a message without the file: {error}"
            assert all(map(str.isprintable, lines)), f"a message that is no text: {str(error)!r}"
            assert len(warned) <= WARNINGS, f"{len(warned)} warnings, the first: {warned[0].message}"
            assert not re.search("MemoryError|allocate", str(error)), f"out of memory: {error}"
            return "error"
        finally:
            replace(file, self.whole[file])
            assert not self.proof.exists(), "code was executed"
            printed = self.noise.read_text(errors="replace").splitlines()
            assert len(printed) <= NOISE, f"{len(printed)} lines on the terminal, the first: {printed[0]}"
        assert not warned, f"{len(warned)} warnings, the first: {warned[0].category.__name__}: {warned[0].message}"
        if (file, way) not in self.before:
            self.before[file, way] = self.kind.look(file, way)
        before = self.before[file, way]
        assert self.kind.agree(file, before, after), "what is not of the damaged file has changed"
        return "same" if equal(before, after) else "other"


def names(message: str, file: Path) -> bool:
    """Whether a message names the file, its data set, or images that the file says are there."""
    return bool(re.search(rf"{re.escape(file.name)}|--dataset |(?m:^\w+ (train|val|test): \d+ of)", message))


def replace(file: Path, content: bytes) -> None:
    """Writes a new file, never into the old one: the file of an earlier mutation may still be mapped."""
    beside = file.with_name(".beside")
    beside.write_bytes(content)
    os.replace(beside, file)


def work(name: str, kind: Kind, seed: int, numbers: range, folder: str, pipe) -> None:
    """The process that reads. Sends the file's name before a mutation and (outcome, seconds, failure) after it."""
    torch.set_num_threads(1)
    noise = os.open(Path(folder) / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(noise, 2)  # what C libraries print
    sys.stderr = io.StringIO()  # progress bars
    fuzz = Fuzz(name, kind, Path(folder), seed)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, in_use + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for file in fuzz.whole:
        kind.look(file, 0)  # so that the first mutation's time has no imports in it
    for number in numbers:
        file, way = fuzz.start(number)
        pipe.send(file.name)
        start, outcome, failure = time.perf_counter(), "failure", ""
        try:
            outcome = fuzz.finish(file, way)
        except BaseException as error:
            failure = f"{type(error).__name__}: {error}"[:500] + f"\n{traceback.format_exc()}"
        os.truncate(fuzz.noise, 0)
        fuzz.proof.unlink(missing_ok=True)
        pipe.send((outcome, time.perf_counter() - start, failure))


def fuzz(name: str, numbers: range, seed: int = 0) -> Report:
    """Reads the mutations `numbers` of a kind of files, each drawn from `seed` and its own number."""
    report, start, context = Report(), time.perf_counter(), multiprocessing.get_context("fork")
    while numbers:
        with tempfile.TemporaryDirectory() as folder:
            pipe, theirs = context.Pipe()
            worker = context.Process(target=work, args=(name, KINDS[name], seed, numbers, folder, theirs), daemon=True)
            worker.start()
            theirs.close()
            numbers = watch(worker, pipe, numbers, report, f"{name}, mutation {{}} of seed {seed}")
            worker.join()
    report.seconds = time.perf_counter() - start
    return report


def watch(worker, pipe, numbers: range, report: Report, label: str) -> range:
    """Counts a worker's outcomes until it is done, ends or hangs. Returns the mutations that are left."""
    file, patience = "at its start", 60.0  # it has to make its files first
    for number in numbers:
        try:
            file = receive(pipe, patience)
            patience = HANG
            outcome, seconds, failure = receive(pipe, patience)
        except (EOFError, TimeoutError) as error:
            worker.kill()
            worker.join()
            failure = str(error) or f"the process ended with {worker.exitcode}"
            report.failures.append(f"{label.format(number)} ({file}): {failure}")
            return range(number + 1, numbers.stop)
        report.outcomes[outcome] += 1
        report.slowest = max(report.slowest, seconds)
        if seconds > SLOW:
            failure += f"{seconds:.1f} s"
        if failure:
            report.failures.append(f"{label.format(number)} ({file}): {failure}")
    return range(0)


def receive(pipe, patience: float):
    if not pipe.poll(patience):
        raise TimeoutError(f"no answer for {patience:.0f} s")
    return pipe.recv()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=[], choices=[*KINDS, []], help=", ".join(KINDS))
    parser.add_argument("--mutations", type=int, help="mutations of each kind; default: as in the tests")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one mutation")
    args = parser.parse_args()
    failed = 0
    print(f"{'':12}{'mutations':>10}{'errors':>8}{'data as before':>16}{'other data':>12}{'seconds':>9}{'slowest':>9}")
    for name in args.kinds or KINDS:
        count = args.mutations or KINDS[name].mutations
        numbers = range(count) if args.only is None else range(args.only, args.only + 1)
        report = fuzz(name, numbers, args.seed)
        came = report.outcomes
        counts = f"{len(numbers):>10}{came['error']:>8}{came['same']:>16}{came['other']:>12}"
        print(f"{name:12}{counts}{report.seconds:>9.1f}{report.slowest:>9.2f}", flush=True)
        for failure in report.failures:
            print("  FAILED", failure if args.only is not None else failure.partition("\nTraceback")[0], flush=True)
        failed += len(report.failures)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
