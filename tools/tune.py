"""Searches for the best values of a script's flags, by validation accuracy, with Optuna.

    python tools/tune.py experiments/cnn/ilm_vp.py --network efficientnet_lite0 --dataset pictures --epoch 5 \\
        --search lr=1e-3:1e-1:log --search batch-size=16,32,64 --trials 20

The flags are the script's own, and those below. An axis is NAME=LOW:HIGH, NAME=LOW:HIGH:log, NAME=A,B,C, or for a flag
without a value NAME=on,off. Whole numbers make a range of whole numbers. The test images choose nothing.

Each trial is an ordinary run with its own folder. If, after an epoch, its best accuracy is below the median of the
others, it is pruned: it ends early. If you type the same command again, the search continues. If you type it in several
terminals or on several machines with the same results_path, they share the trials.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shlex
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event

import torch
from optuna.trial import FrozenTrial, Trial, TrialState

import cfg
from data.catalog import find_dataset
from errors import Interrupted, RunError, UserError
from tools.common.args import Parser, selection
from tools.common.command import run_command
from tools.common.flag_types import positive_int
from tools.common.naming import MACHINE, run_name
from tools.common.processes import launched
from tools.searching.axes import Axis, read_axes
from tools.searching.runs import TrialRun
from tools.searching.study import Study, best_accuracy, cells, table

PROGRAM = [sys.executable]


def main(argv: list[str] | None = None) -> list[FrozenTrial]:
    argv = sys.argv[1:] if argv is None else argv
    args, flags = parse(argv)
    parser = read_parser(args.script)
    axes = read_axes(args.search, flags, parser)
    search = Search(args, flags, parser, axes)
    print(f"The search is kept in {search.study.folder}", flush=True)
    try:
        search.carry_out()
    except KeyboardInterrupt:
        kept = "Its trials and their runs are kept."
        again = shlex.join(["python", os.path.relpath(__file__), *argv])
        raise Interrupted("The search was interrupted.", kept, f"To continue: {again}") from None
    return search.tell()


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags of the search, and the others, which are the script's."""
    parser = Parser(__file__, __doc__)
    parser.add_argument("script", help="a script of experiments/, or your own")
    axis = "an axis of the search; may be given several times"
    parser.add_argument("--search", action="append", required=True, metavar="NAME=VALUES", help=axis)
    all_of_them = "trials of the search, those of other processes too; default %(default)s"
    parser.add_argument("--trials", type=positive_int, default=20, help=all_of_them)
    jobs = "trials at a time, distributed over the visible GPUs; default %(default)s"
    parser.add_argument("--jobs", type=positive_int, default=1, help=jobs)
    parser.add_argument("--no-pruning", action="store_true", help="every trial trains to its last epoch")
    args, flags = parser.parse_known_args(argv)
    if launched():
        raise UserError(
            "A search starts its runs itself.", "torchrun starts it several times.", "Type python in place of torchrun."
        )
    if "--fresh" in flags:
        raise UserError("--fresh: a search continues.", "Each of its trials is a run.", "Leave --fresh out.")
    return args, flags


def read_parser(script: str) -> Parser:
    """The parser of an experiment's script.

    Raises:
        UserError: there is no such script, or it is no experiment.
    """
    next_step = "Type for example: python tools/tune.py experiments/cnn/ilm_vp.py"
    if not os.path.isfile(script) or not script.endswith(".py"):
        raise UserError(f"{script}: a script of experiments/ is needed.", "There is no such file.", next_step)
    specification = importlib.util.spec_from_file_location("searched_script", script)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    parser = getattr(module, "parser", None)
    if not isinstance(parser, Parser) or not parser.get_default("method"):
        raise UserError(f"{script}: an experiment is needed.", "It has no parser = experiment_parser(...).", next_step)
    return parser


class Search:
    """A script, what is typed for all trials, the axes, and the study."""

    def __init__(self, args: argparse.Namespace, flags: list[str], parser: Parser, axes: list[Axis]):
        self.args, self.flags, self.parser, self.axes = args, flags, parser, axes
        first = self._flags({axis.name: axis.extremes[0] for axis in axes})
        own = parser.parse_args(first)
        self.study = Study(self._folder(own), axes, None if args.no_pruning else own.epoch // 10)
        self._stopping = Event()

    def _flags(self, values: dict[str, float | str]) -> list[str]:
        """The script's flags for the values of a trial."""
        return [*self.flags, *(word for axis in self.axes for word in axis.words(values[axis.name]))]

    def _folder(self, own: argparse.Namespace) -> Path:
        """The folder of this search: the same for the same script, settings, axes and images.

        Raises:
            UserError: there is no validation accuracy to search by.
        """
        if not own.epoch:
            raise UserError("A search needs a script that trains.", f"{own.method} does not.", "Choose another script.")
        splits = find_dataset(own.dataset).read(**selection(own))
        if splits.val is None:
            next_step = "Add --val-fraction 0.1, which takes a tenth of the training images of each class."
            raise UserError(
                "A search compares accuracies on validation images.",
                f"The data set {own.dataset} has no validation split, and test images may not choose.",
                next_step,
            )
        searched = {axis.name.replace("-", "_") for axis in self.axes}
        settings = {name: str(v) for name, v in vars(own).items() if name not in searched and name not in MACHINE}
        identity = [own.method, settings, sorted((axis.flag, axis.text) for axis in self.axes), splits.fingerprint]
        key = hashlib.md5(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
        parts = (own.method, getattr(own, "network", ""), own.dataset, *sorted(searched))
        name = re.sub(r"[^\w.+=-]+", "-", "_".join(parts))[:200]
        return cfg.results_path / "studies" / f"{name}_{key}"

    def carry_out(self) -> None:
        """Carries out trials, --jobs at a time, until the study has all of them."""
        with ThreadPoolExecutor(self.args.jobs) as slots:
            try:
                done = [slots.submit(self._work, slot) for slot in range(self.args.jobs)]
                for ended in wait(done, return_when=FIRST_EXCEPTION).done:
                    ended.result()
            except BaseException:
                self._stopping.set()
                raise

    def _work(self, slot: int) -> None:
        while not self._stopping.is_set() and (claimed := self.study.claim(self.args.trials)):
            trial, lock = claimed
            try:
                refused = self._run(trial, slot).carry_out(self.study, trial, self._stopping)
            finally:
                lock.release()
            if not self._stopping.is_set():
                self._tell_one(trial.number)
            if refused and all(one.state in (TrialState.FAIL, TrialState.RUNNING) for one in self.study.trials()):
                asked = f"Trial {trial.number}, before any other has ended well: {self._command(trial.params)}"
                raise UserError(asked, refused, "Correct the flags, the axes or the data.")

    def _run(self, trial: Trial, slot: int) -> TrialRun:
        flags = self._flags(trial.params)
        own = self.parser.parse_args(flags)
        paths = {f"VP_{name.upper()}": str(getattr(cfg, name)) for name in ("data_path", "results_path")}
        environment = paths | {"TQDM_DISABLE": "1"}
        if gpus := visible_gpus():
            environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
        folder = cfg.results_path / own.method / run_name(own, self.parser)
        output = self.study.folder / f"trial{trial.number}.txt"
        return TrialRun([*PROGRAM, self.args.script, *flags], folder, output, environment)

    def _command(self, values: dict[str, float | str]) -> str:
        return shlex.join(["python", self.args.script, *self._flags(values)])

    def _tell_one(self, number: int) -> None:
        (trial,) = (trial for trial in self.study.trials() if trial.number == number)
        number, *values, accuracy, epochs, how = cells(trial, self.axes)
        named = ", ".join(f"{axis.name} {value}" for axis, value in zip(self.axes, values, strict=True))
        print(f"trial {number}: {named}: val acc {accuracy or '-'} after {epochs} epochs, {how}", flush=True)

    def tell(self) -> list[FrozenTrial]:
        """Prints the table of the trials and the best command.

        Raises:
            RunError: no trial has been finished.
        """
        trials = self.study.trials()
        print(f"\n{table(trials, self.axes)}\n", flush=True)
        if under_way := sum(trial.state == TrialState.RUNNING for trial in trials):
            print(f"{under_way} trials are under way in other processes. Type this command again for all of them.")
        finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if not finished:
            found = f"None of {len(trials)} has. The outputs are in {self.study.folder}."
            raise RunError("The best trial is one that has been finished.", found, "Try other axes, or --no-pruning.")
        best = max(finished, key=best_accuracy)
        print(f"Best: trial {best.number}, validation accuracy {best.value:.4f}. Its run is finished; to see it, type")
        print(f"  {self._command(best.params)}")
        return trials


def visible_gpus() -> list[str]:
    """The GPUs that runs are distributed over, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    return [str(number) for number in range(torch.cuda.device_count())]


if __name__ == "__main__":
    run_command(main)
