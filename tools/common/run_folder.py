"""The folder of a run: its log, checkpoints, figures and receipt; how it resumes and how it ends."""

import argparse
import gc
import shutil
import signal
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import cfg
from algorithms.distributed import agree, world_size
from algorithms.predictions import TargetPredictions, confusion
from errors import RunError, UserError
from tools.common.args import Parser
from tools.common.board import Board
from tools.common.checkpoint import load_latest, restore, save_checkpoint, states
from tools.common.figures import Figures
from tools.common.files import empty_folder, forget, own_folder, read_json, write_json
from tools.common.log import Log
from tools.common.machine import environment, without_old_objects
from tools.common.naming import CLIP, MACHINE, PLACE, differences, run_name, setting
from tools.common.network_names import network_name
from tools.common.predictions import write_test_predictions
from tools.common.processes import is_first, launched
from tools.common.receipt import collapse, describe, summarise
from tools.common.settings import origins
from tools.common.shell import as_typed


class AlreadyFinished(Exception):
    """Ends `train`: an earlier start finished the run with the same images and weights."""


class RunFolder:
    """`results_path/<method>/<name>/`.

    Attributes:
        path: the folder.
        precision: "float32", "bfloat16" or "float16". Once the folder is open, it is that of the run's first start.
        log: the epochs.
        figures: what is drawn of the run.
        tested: what evaluation predicts for the test images; to be set before an epoch ends.
        receipt: entries that result.json gets besides the numbers.
        result: the receipt of the finished run; None before.
    """

    def __init__(self, args: argparse.Namespace, parser: Parser, precision: str):
        self.args, self._defaults, self.precision = args, parser.get_default, precision
        self.path = cfg.results_path / args.method / run_name(args, parser)
        self._setting = partial(setting, args, parser)
        self.log = Log(self.path / "log.jsonl")
        self.receipt: dict[str, Any] = {}
        self.result: dict | None = None
        self.figures = Figures(self.path)
        self.tested: TargetPredictions | None = None
        self._parts: dict[str, Any] = {}
        self._saved_epochs = 0
        self._earlier: dict[str, Any] = {}  # args.json of an earlier start
        self._identity: dict[str, Any] = {}  # what `identify` was told
        self._board: Board | None = None
        self._checkpoint = self.path / "ckpt.pth"
        self._found: tuple[dict | None, Path] | None = None  # the checkpoint and its file, once `earlier` has read them
        self._start_over = f"Start over: {as_typed(args.command)} --fresh"
        kept = [name for name in parser.typed if name not in (*MACHINE, *CLIP, *PLACE)]
        self._settings_from = origins(args.method, vars(args), kept)
        self._named = {name: getattr(args, name) for name in ("method", *PLACE)}
        self._named["network"] = network_name(args.network)

    def open(self) -> None:
        """Makes the folder, or finds an earlier start of the same command in it, and locks it.

        Raises:
            UserError: another process has locked the folder, or it belongs to another run.
        """
        with ExitStack() as holding:
            holding.enter_context(own_folder(self.path))
            self._find_earlier_start()
            self._agree(len(self.log.records))  # all processes have read; from now on the first one writes
            holding.enter_context(without_old_objects())
            self._held = holding.pop_all()

    def _arguments(self) -> dict[str, Any]:
        """The settings of the run. `auto` is replaced in the precision, so that no run changes it half way."""
        own = {name: value for name, value in vars(self.args).items() if name not in MACHINE}
        return own | {"precision": self.precision, "network": self._named["network"]}

    def _find_earlier_start(self) -> None:
        """Reads the files of an earlier start and changes none. With --fresh it reads none; `track` clears the folder.

        Raises:
            UserError: the folder belongs to another run. Two runs never have one folder.
        """
        if self.args.fresh:
            return
        result = read_json(self.path / "result.json")
        self.result = result if result.get("status") == "finished" else None
        self._earlier = read_json(self.path / "args.json")
        if self.args.precision == "auto" and self._earlier.get("precision") in ("float32", "bfloat16"):
            self.precision = self._earlier["precision"]  # every device has these; `auto` differs between machines
        own = self._arguments()
        if self.result:
            del own["precision"]  # a finished run is reported on any machine
        if self._earlier:
            defaults = {name: self._defaults(name) for name in own}  # a flag may be younger than the run
            self._require_same(defaults | self._earlier, own, "Type those arguments")
        self.log.read()

    def _require_same(self, then: dict[str, Any], now: dict[str, Any], remedy: str) -> None:
        if differing := differences(then, now):
            raise UserError(
                f"{self.path} belongs to this run.",
                f"args.json there has {'; '.join(differing)}.",
                f"{remedy}, move that folder away, or start over with --fresh.",
            )

    def identify(self, **identity: Any) -> None:
        """Compares the fingerprint of the data, or the hash of the weights, with that of an earlier start.

        Raises:
            UserError: the earlier start had others.
            AlreadyFinished: the weights are the same, and the data told before, and an earlier start finished the run.
        """
        self._require_same(self._earlier, identity, "Put those images or weights back")
        if self.result and "weights" in identity:
            raise AlreadyFinished
        self._identity |= identity

    def _agree(self, epochs: int) -> None:
        """Waits for all processes of the run. Raises UserError if they found different numbers of epochs."""
        if not agree(epochs):
            found = f"This process finds {epochs} epochs there, another process a different number."
            raise UserError(f"{self.path} has to be one folder for all processes.", found, "Use a shared file system.")

    def track(self, setup: dict[str, Any], sizes: dict[str, int], parts: dict[str, Any]) -> int:
        """Sets what a checkpoint holds, and loads the run's checkpoint if there is one.

        Args:
            setup: what is needed to build the model again, in plain values.
            sizes: images by split.
            parts: checkpoint key -> a tensor, or an object with state_dict() and load_state_dict().

        Returns:
            How many epochs are done.

        Raises:
            UserError: the checkpoint is damaged, or belongs to another run.
            AlreadyFinished: there is nothing left to do.
        """
        if "weights" not in self._identity:  # else loading the network has told them
            self.identify(weights=setup.get("weights"))
        self._setup, self._parts = self._named | {"precision": self.precision} | setup, parts
        self._sizes = {f"{split}_size": size for split, size in sizes.items()}
        if self.args.fresh:
            empty_folder(self.path)
        where = {"working_directory": str(Path.cwd()), "data_path": str(cfg.data_path), "device": str(self.args.device)}
        where |= {"network_source": self.args.network} if self.args.network != self._named["network"] else {}
        where |= {"setting": self._setting(self.precision), "command": self.args.command}
        write_json(self.path / "args.json", self._arguments() | where | self._identity)
        self._agree(0)  # the first process has written
        self._resume()
        self._agree(self._saved_epochs)
        self.log.keep(self._saved_epochs)
        if self._board:  # the run ends with another model than it began with
            self._board.close()
        if is_first():
            self._board = Board(self.path / "tensorboard", self._saved_epochs)
        return self._saved_epochs

    def earlier(self, key: str) -> Any:
        """What the run's checkpoint holds under this key; None without one, with --fresh, or if `track` refuses it."""
        if self.args.fresh:
            return None
        self._found = load_latest(self._checkpoint, self._start_over)
        checkpoint = self._found[0] or {}
        setup = checkpoint.get("setup")
        return checkpoint.get(key) if isinstance(setup, dict) and self._named.items() <= setup.items() else None

    def _resume(self) -> None:
        start_over = self._start_over
        (checkpoint, file), self._found = self._found or load_latest(self._checkpoint, start_over), None
        if checkpoint is None:
            return
        try:
            theirs = {name: checkpoint["setup"].get(name) for name in self._named}
            if theirs == self._named:
                restore(self._parts, checkpoint)
            self._saved_epochs = int(checkpoint["epoch"]) + 1
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise UserError(f"{file} should fit this run.", f"It does not: {error!r}", start_over) from None
        if theirs != self._named:
            raise UserError(f"{file} should belong to {self._named}.", f"It belongs to {theirs}.", start_over)
        if file != self._checkpoint and is_first():  # else the damaged file would replace the previous one
            self._checkpoint.unlink(missing_ok=True)
        print(f"Continuing after epoch {self._saved_epochs} of {self.args.epoch}, from {file}", flush=True)

    def end_epoch(self, epoch: int, record: dict) -> None:
        """Writes the epoch's record, pictures, checkpoint and receipt. `epoch` counts from 0, the record from 1."""
        begin = time.monotonic()
        predicted, labels, names = self.tested.take(), self.tested.labels, self._setup["class_names"]
        confused = confusion(predicted, labels, len(names))
        pictures = self.figures.draw_map(confused, is_last=epoch + 1 >= self.args.epoch)
        record = {"epoch": epoch + 1, **record, "figure_seconds": time.monotonic() - begin}
        self.log.append(record)
        write_test_predictions(self.path, epoch + 1, names, labels, predicted)
        if self._board:
            self._board.show(record, pictures)
        summary = summarise(self.log.records)
        content = states(self._parts) | {"epoch": epoch, "best_acc": summary["test_acc_best"], "setup": self._setup}
        if summary["kept_epoch"] == epoch + 1:
            save_checkpoint(self.path / "best.pth", content)
            for name in ("corruptions.json", "attack.json", "calibration.json", "calibration.png"):
                forget(self.path / name)  # evaluate.py made it from the best.pth before
        save_checkpoint(self._checkpoint, content, keep_previous=True)
        self._saved_epochs = epoch + 1
        self._write_result("running")
        print(self.log.line(record, self.args.epoch, self.precision), flush=True)
        if self._collapse() and not self._collapse(epoch):
            print(self._collapse(), flush=True)
        if pictures:
            gc.collect()  # a figure's objects refer to each other; without this Python lets them grow to 60 MB

    def _collapse(self, epochs: int | None = None) -> str | None:
        return collapse(self.log.records[:epochs], len(self._setup["class_names"]), self.args)

    def finish(self, **receipt: Any) -> dict:
        """Draws the figures, completes the receipt with these entries and prints what the user may type next."""
        self.receipt |= receipt
        self.figures.draw_at_end(self.log.records)
        self.result = self._write_result("finished")
        return self.report()

    def report(self) -> dict:
        """Prints the finished run's numbers and what to type next."""
        print(describe(self.result, self.path), flush=True)
        return self.result

    def _write_result(self, status: str) -> dict:
        result = {
            **self._named,
            "status": status,
            "epochs": self.args.epoch,
            **summarise(self.log.records),
            "classes": len(self._setup["class_names"]),
            "collapse": self._collapse(),
            **self._sizes,
            **self._identity,
            "precision": self.precision,
            "processes": world_size(),
            **environment(self.args.device),
            "command": self.args.command,
            "settings_from": self._settings_from,
            **self.receipt,
        }
        write_json(self.path / "result.json", result)
        return result

    def close(self, error: BaseException | None) -> str:
        """Unlocks the folder. After an error it saves the run's status, or deletes the folder if no epoch was finished.

        Returns:
            A sentence on what is kept of the run.
        """
        there = any(self.path.glob("ckpt*.pth"))
        try:
            if self._board:
                self._board.close()
            if error is not None and launched():  # when one process fails, torchrun tells the others to end: they do
                signal.signal(signal.SIGTERM, lambda *_: None)
            if error is not None and self._saved_epochs:
                self._note_stop("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            elif error is not None and is_first() and not there and not (self.path / "result.json").exists():
                shutil.rmtree(self.path, ignore_errors=True)
                with suppress(OSError):  # other runs of the method are there
                    self.path.parent.rmdir()
        finally:
            self._held.close()
        return f"The last checkpoint is kept: {self._checkpoint}" if there else "No epoch was finished."

    def _note_stop(self, status: str) -> None:
        self.log.records = self.log.records[: self._saved_epochs]
        with suppress(RunError, RuntimeError):  # a full disk, or a GPU whose memory is full
            self._write_result(status)
            if launched():  # the GPU may wait for the others in vain
                self.figures = Figures(self.path)
            self.figures.draw_at_end(self.log.records)
