"""A run: its folder, its log, its checkpoints, how it resumes, and the receipt it leaves."""

import argparse
import gc
import shutil
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import cfg
from algorithms.distributed import agree, world_size
from errors import RunError, UserError
from tools.common import plots
from tools.common.args import Parser, resolve_precision
from tools.common.board import Board
from tools.common.checkpoint import load_latest, restore, save_checkpoint, states
from tools.common.files import empty_folder, forget, own_folder, read_json, write_json
from tools.common.log import Log
from tools.common.machine import environment, prepare_device, without_old_objects
from tools.common.naming import MACHINE, PLACE, run_name, setting
from tools.common.processes import is_first, join, launched, part_of_batch
from tools.common.receipt import describe, summarise
from tools.common.stops import explain


class Run:
    """One experiment's folder, `results_path/<method>/<name>/`, held by one process at a time.

    A context manager: entering makes the folder (or finds an earlier start of the same command in it) and seeds torch;
    leaving marks how the run ended. In between a script says what is to be saved (`track`), hands `end_epoch` to the
    training loop, and calls `finish`.

    Attributes:
        device, precision: where and how to compute.
        scaler: the gradient scaler that the precision needs.
        figures: name -> function that draws it; drawn at the end, `mapping` after every epoch.
        result: the receipt of the finished run, None before.
    """

    def __init__(self, args: argparse.Namespace, parser: Parser):
        self.args, self._defaults = args, parser.get_default
        self.path = cfg.results_path / args.method / run_name(args, parser)
        self.device, self.precision = args.device, resolve_precision(args.precision, args.device)
        self._setting = setting(args, parser, self.precision)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")
        self.figures: dict[str, Callable[[], Figure]] = {}
        self.result: dict | None = None
        self._parts, self._setup, self._receipt = {}, {}, {}
        self._start_epoch = self._saved_epochs = 0
        self._board: Board | None = None
        self.log = Log(self.path / "log.jsonl")
        self._checkpoint = self.path / "ckpt.pth"

    def __enter__(self) -> "Run":
        join(self.device)
        with ExitStack() as holding:
            holding.enter_context(own_folder(self.path))
            self._find_earlier_start()
            self._agree(len(self.log.records))  # all have read; from now on the first writes
            holding.enter_context(without_old_objects())
            self._folder = holding.pop_all()
        torch.manual_seed(self.args.seed)
        prepare_device(self.device)
        return self

    def _arguments(self) -> dict[str, Any]:
        """What makes two runs the same run; the precision as it was resolved, so that no run changes it half way."""
        own = {name: value for name, value in vars(self.args).items() if name not in MACHINE}
        return own | {"precision": self.precision}

    def _find_earlier_start(self) -> None:
        """Reads what there is of this run and changes nothing; --fresh looks away, and `track` then clears the folder.

        Raises:
            UserError: the folder is another run's; two runs never share one.
        """
        if self.args.fresh:
            return
        result = read_json(self.path / "result.json")
        self.result = result if result.get("status") == "finished" else None
        earlier, own = read_json(self.path / "args.json"), self._arguments()
        if self.result:
            del own["precision"]  # to be told again, it may be read on another machine
        then = {name: earlier.get(name, self._defaults(name)) for name in own}  # a flag may be younger than the run
        differing = [f"{name} {then[name]}, not {own[name]}" for name in own if own[name] != then[name]]
        if earlier and differing:
            raise UserError(
                f"{self.path} belongs to this run.",
                f"args.json there has {'; '.join(differing)}.",
                "Type those arguments, move that folder away, or start over with --fresh.",
            )
        self.log.read()

    def _agree(self, epochs: int) -> None:
        """Waits for all processes of the run. Raises UserError where they found other numbers of epochs."""
        if not agree(epochs):
            found = f"This one finds {epochs} epochs there, others another number."
            raise UserError(f"{self.path} is to be seen by all processes.", found, "Use a folder that machines share.")

    @property
    def selection(self) -> dict[str, Any]:
        """The flags that choose training images, as `Dataset.read` takes them."""
        return {name: getattr(self.args, name) for name in ("shots", "train_fraction", "val_fraction", "seed")}

    @property
    def placement(self) -> dict[str, Any]:
        """The flags that say where and how to compute, as `load_network` takes them."""
        where = {"device": self.device, "precision": self.precision}
        return where | {"plain": self.args.plain, "compiled": self.args.compile}

    def loading(self, default_batch_size: int) -> dict[str, Any]:
        """The flags that say how images come in, as `build_loaders` takes them."""
        size = self._receipt["batch_size"] = self.args.batch_size or default_batch_size
        if size < world_size():
            found = f"{world_size()} processes share it, and each needs an image."
            raise UserError(f"--batch-size {size} is that of all processes together.", found, "Start fewer.")
        return {
            "batch_size": size,
            "share": part_of_batch(),
            "device": self.device,
            "workers": self.args.workers,
            "gpu_cache_fraction": self.args.gpu_cache_fraction,
            "cache_folder": None if self.args.plain else cfg.data_path / ".cache",
        }

    @property
    def fitting(self) -> dict[str, Any]:
        """How long to train, from where, and who writes it down, as `fit` takes it; after `track`."""
        return {
            "epochs": self.args.epoch,
            "seed": self.args.seed,
            "scaler": self.scaler,
            "start_epoch": self._start_epoch,
            "on_epoch_end": self.end_epoch,
        }

    def track(self, splits, transform, setup: dict[str, Any] | None = None, **parts: Any) -> None:
        """Says what a checkpoint holds, and loads the run's own if there is one.

        Args:
            splits: the data set as read; its class names and sizes go into checkpoint and receipt.
            transform: the evaluation transform, a dataclass of plain values; it goes into the checkpoint.
            setup: what else is needed to build the model again, in plain values.
            parts: checkpoint key -> whatever has state_dict() and load_state_dict(), or a tensor.

        Raises:
            UserError: the checkpoint is damaged, or another run's.
        """
        named = {name: getattr(self.args, name) for name in ("method", *PLACE)}
        self._setup = named | {
            "class_names": list(splits.class_names),
            "transform": asdict(transform),
            "classes": {key: type(part).__name__ for key, part in parts.items()},
            **(setup or {}),
        }
        self._sizes = {f"{part}_size": size for part, size in splits.sizes.items()}
        self._parts = parts | {"scaler_dict": self.scaler}
        if self.args.fresh:
            empty_folder(self.path)
        where = {"working_directory": str(Path.cwd()), "data_path": str(cfg.data_path), "device": str(self.device)}
        where |= {"setting": self._setting, "command": self.args.command}
        write_json(self.path / "args.json", self._arguments() | where)
        self._agree(0)  # the first has written
        self._resume(named)
        self._agree(self._start_epoch)
        self.log.keep(self._start_epoch)
        if is_first():
            self._board = Board(self.path / "tensorboard", self._start_epoch)

    def _resume(self, named: dict[str, Any]) -> None:
        start_over = f"Start over: {self.args.command} --fresh"
        checkpoint, file = load_latest(self._checkpoint, start_over)
        if checkpoint is None:
            return
        try:
            theirs = {name: checkpoint["setup"].get(name) for name in named}
            if theirs == named:
                restore(self._parts, checkpoint)
            self._start_epoch = self._saved_epochs = int(checkpoint["epoch"]) + 1
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise UserError(f"{file} should fit this run.", f"It does not: {error!r}", start_over) from None
        if theirs != named:
            raise UserError(f"{file} should belong to {named}.", f"It belongs to {theirs}.", start_over)
        if file != self._checkpoint and is_first():  # else the damaged one would take its place
            self._checkpoint.unlink(missing_ok=True)
        print(f"Continuing after epoch {self._start_epoch} of {self.args.epoch}, from {file}", flush=True)

    def end_epoch(self, epoch: int, record: dict) -> None:
        """Writes the epoch's line, pictures, checkpoint and receipt; `epoch` counts from 0, in the files from 1."""
        record = {"epoch": epoch + 1, **record}
        self.log.append(record)
        pictures = [plots.save(self.figures[n](), self.path / f"{n}.png") for n in {"mapping"} & self.figures.keys()]
        if self._board:
            self._board.show(record, pictures)
        summary = summarise(self.log.records)
        content = states(self._parts) | {"epoch": epoch, "best_acc": summary["test_acc_best"], "setup": self._setup}
        if summary["kept_epoch"] == epoch + 1:
            save_checkpoint(self.path / "best.pth", content)
            forget(self.path / "corruptions.json")  # evaluate.py's, of the one before
        save_checkpoint(self._checkpoint, content, keep_previous=True)
        self._saved_epochs = epoch + 1
        self._write_result("running")
        print(self.log.line(record, self.args.epoch), flush=True)
        gc.collect()  # a figure's objects refer to each other; by itself Python lets them grow to 60 MB

    def finish(self, **receipt: Any) -> dict:
        """Draws the figures, closes the receipt (with further entries) and says what the user may do next."""
        self._receipt |= receipt
        self._draw_figures()
        self.result = self._write_result("finished")
        return self.report()

    def _draw_figures(self) -> None:
        for name, draw in (self.figures | {"curves": lambda: plots.curves_figure(self.log.records)}).items():
            if name != "mapping":  # drawn after every epoch
                plots.save(draw(), self.path / f"{name}.png")

    def _write_result(self, status: str) -> dict:
        result = {
            **{name: getattr(self.args, name) for name in ("method", *PLACE)},
            "status": status,
            "epochs": self.args.epoch,
            **summarise(self.log.records),
            "classes": len(self._setup["class_names"]),
            **self._sizes,
            "precision": self.precision,
            "processes": world_size(),
            **environment(self.device),
            "command": self.args.command,
            **self._receipt,
        }
        write_json(self.path / "result.json", result)
        return result

    def report(self) -> dict:
        """Prints the finished run's numbers and what to type next."""
        print(describe(self.result, self.path), flush=True)
        return self.result

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if self._board:
                self._board.close()
            if error is not None:
                self._stopped(error)
        finally:
            self._folder.close()

    def _stopped(self, error: BaseException) -> None:
        """Leaves an honest status behind, or no folder where nothing had been learned yet."""
        if launched():  # torchrun tells the others to end when one has failed: they are about to
            signal.signal(signal.SIGTERM, lambda *_: None)
        there = any(self.path.glob("ckpt*.pth"))
        kept = f"The last checkpoint is kept: {self._checkpoint}" if there else "No epoch was finished."
        if self._saved_epochs:
            self.log.records = self.log.records[: self._saved_epochs]
            with suppress(RunError, RuntimeError):  # of a full disk, of a GPU whose memory is full
                self._write_result("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
                self.figures = {} if launched() else self.figures  # the GPU may wait for the others in vain
                self._draw_figures()
        elif is_first() and not there and not (self.path / "result.json").exists():
            shutil.rmtree(self.path, ignore_errors=True)
        if explanation := explain(error, self.args, kept):
            raise explanation from None
