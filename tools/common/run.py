"""A run: its folder, its log, its checkpoints, how it resumes, and the receipt it leaves."""

import argparse
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import cfg
from algorithms.training import NonFiniteLoss
from errors import Interrupted, RunError, UserError
from tools.common import plots
from tools.common.args import Parser, resolve_precision
from tools.common.board import Board
from tools.common.files import load_checkpoint, own_folder, read_json, save_checkpoint, write_json, write_whole
from tools.common.log import Log
from tools.common.machine import environment, prepare_device
from tools.common.naming import MACHINE, PLACE, run_name, setting
from tools.common.receipt import describe, summarise


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
        self._parts: dict[str, Any] = {}
        self._setup: dict[str, Any] = {}
        self._receipt: dict[str, Any] = {}
        self._start_epoch = self._saved_epochs = 0
        self._board: Board | None = None
        self.log = Log(self.path / "log.jsonl")

    def __enter__(self) -> "Run":
        self._lock = own_folder(self.path)
        try:
            self._find_earlier_start()
        except BaseException:
            self._lock.release()
            raise
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

    @property
    def selection(self) -> dict[str, Any]:
        """The flags that choose training images, as `Dataset.read` takes them."""
        return {name: getattr(self.args, name) for name in ("shots", "train_fraction", "val_fraction", "seed")}

    @property
    def placement(self) -> dict[str, Any]:
        """The flags that say where and how to compute, as `load_network` takes them."""
        return {
            "device": self.device,
            "precision": self.precision,
            "plain": self.args.plain,
            "compiled": self.args.compile,
        }

    def loading(self, default_batch_size: int) -> dict[str, Any]:
        """The flags that say how images come in, as `build_loaders` takes them."""
        self._receipt["batch_size"] = self.args.batch_size or default_batch_size
        return {
            "batch_size": self._receipt["batch_size"],
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
            for entry in self.path.iterdir():
                if entry.name != ".lock":
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        where = {"working_directory": str(Path.cwd()), "data_path": str(cfg.data_path), "device": str(self.device)}
        own = {"setting": self._setting, "command": self.args.command}
        write_json(self.path / "args.json", self._arguments() | own | where)
        file = self.path / "ckpt.pth"
        if file.is_file():
            self._resume(file, named)
        self.log.keep(self._start_epoch)
        self._board = Board(self.path / "tensorboard", self._start_epoch)

    def _resume(self, file: Path, named: dict[str, Any]) -> None:
        start_over = f"Start over: {self.args.command} --fresh"
        checkpoint = load_checkpoint(file, start_over)
        try:
            theirs = {name: checkpoint["setup"].get(name) for name in named}
            if theirs == named:
                for key, part in self._parts.items():
                    part.copy_(checkpoint[key]) if isinstance(part, Tensor) else part.load_state_dict(checkpoint[key])
            self._start_epoch = self._saved_epochs = int(checkpoint["epoch"]) + 1
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise UserError(f"{file} should fit this run.", f"It does not: {error!r}", start_over) from None
        if theirs != named:
            raise UserError(f"{file} should belong to {named}.", f"It belongs to {theirs}.", start_over)
        print(f"Continuing after epoch {self._start_epoch} of {self.args.epoch}, from {file}", flush=True)

    def end_epoch(self, epoch: int, record: dict) -> None:
        """Writes the epoch's line, pictures, checkpoint and receipt; `epoch` counts from 0, in the files from 1."""
        record = {"epoch": epoch + 1, **record}
        self.log.append(record)
        pictures = [self._save_figure(name, self.figures[name]()) for name in ("mapping",) if name in self.figures]
        self._board.show(record, pictures)
        summary = summarise(self.log.records)
        content = {
            **{k: p.detach().cpu() if isinstance(p, Tensor) else p.state_dict() for k, p in self._parts.items()},
            "epoch": epoch,
            "best_acc": summary["test_acc_best"],
            "setup": self._setup,
        }
        if summary["kept_epoch"] == epoch + 1:
            save_checkpoint(self.path / "best.pth", content)
        save_checkpoint(self.path / "ckpt.pth", content)
        self._saved_epochs = epoch + 1
        self._write_result("running")
        print(self.log.line(record, self.args.epoch), flush=True)

    def finish(self, **receipt: Any) -> dict:
        """Draws the figures, closes the receipt (with further entries) and says what the user may do next."""
        self._receipt |= receipt
        self._draw_figures()
        self.result = self._write_result("finished")
        return self.report()

    def _draw_figures(self) -> None:
        figures = self.figures | {"curves": lambda: plots.curves_figure(self.log.records)}
        for name, draw in figures.items():
            if name != "mapping":  # drawn after every epoch
                self._save_figure(name, draw())

    def _save_figure(self, name: str, figure: Figure) -> Path:
        file = self.path / f"{name}.png"
        write_whole(file, lambda temporary: figure.savefig(temporary, dpi=110))
        return file

    def _write_result(self, status: str) -> dict:
        result = {
            **{name: getattr(self.args, name) for name in ("method", *PLACE)},
            "status": status,
            "epochs": self.args.epoch,
            **summarise(self.log.records),
            "classes": len(self._setup["class_names"]),
            **self._sizes,
            "precision": self.precision,
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
            self._lock.release()

    def _stopped(self, error: BaseException) -> None:
        """Leaves an honest status behind, or no folder where nothing had been learned yet."""
        checkpoint, kept = self.path / "ckpt.pth", "No epoch was finished."
        if self._saved_epochs:
            kept = f"The last checkpoint is kept: {checkpoint}"
            self.log.records = self.log.records[: self._saved_epochs]
            with suppress(RunError):
                self._draw_figures()
                self._write_result("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        elif not checkpoint.exists() and not (self.path / "result.json").exists():
            shutil.rmtree(self.path, ignore_errors=True)
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted("Interrupted.", kept, f"To continue: {self.args.command}") from None
        if isinstance(error, torch.cuda.OutOfMemoryError):
            smaller = "Try a lower --batch-size."
            raise RunError(f"{self.args.method} had to stop: out of memory on {self.device}.", kept, smaller) from None
        if self.args.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = " ".join(str(error).split())[:200]
            raise RunError(f"--compile: torch.compile failed ({reason}).", kept, "Run it without --compile.") from None
        if isinstance(error, NonFiniteLoss):
            lower = f"Try a lower --lr than {self.args.lr:g}, or --precision float32."
            raise RunError(f"{self.args.method} had to stop: {error}.", kept, lower) from None
