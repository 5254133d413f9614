"""Reads the receipts of runs: which method in which setting, on which data set, with which numbers."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from errors import UserError
from tools.common.files import read_json
from tools.common.naming import PLACE
from tools.reporting.methods import Column

_TEST = "test accuracy in percent"
# --metric -> the key in result.json, the words for this accuracy, and why a run may lack it
METRICS = {
    "last": ("test_acc_last", f"{_TEST} after the last epoch", ""),
    "best": ("test_acc_best", f"{_TEST} at its best epoch, chosen on the test set, as the originals report", ""),
    "at-best-val": ("test_acc_at_best_val", f"{_TEST} at the best validation epoch", "No validation split"),
    "val": ("val_acc_last", "validation accuracy in percent after the last epoch", "No validation split"),
    "corruptions": (
        "corruptions_acc",  # of corruptions.json, which tools/evaluate.py writes beside result.json
        f"{_TEST} of best.pth on corrupted test images, the mean over corruptions and severities",
        "No corruptions.json",
    ),
}


@dataclass(frozen=True)
class Receipt:
    """A run, with the content of its args.json and its result.json ({} if there is none yet).

    `epochs` is 0 where nothing is trained. `command` is the typed command as a list of words. `size` is the data set's
    number of classes and of test images, `images` the fingerprint of the test images ("" in a receipt of an earlier
    version).
    """

    path: Path
    column: Column
    network: str
    dataset: str
    seed: int
    epochs: int
    args: dict
    result: dict
    command: list[str]
    size: tuple[int, int]
    images: str
    finished: bool


def number(value: object) -> float | None:
    """The value if it is a number; None for anything else, which a damaged file may hold."""
    right = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e100
    return value if right else None


def read_receipts(folder: Path) -> tuple[list[Receipt], list[str]]:
    """Every run in `folder`, and a note on each run whose files cannot be used. Raises UserError if there is no run."""
    receipts, notes = [], []
    for path in sorted({file.parent for name in ("args", "result") for file in folder.glob(f"*/*/*/{name}.json")}):
        try:
            receipts.append(read_receipt(path))
        except (UserError, AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            notes.append(f"Left out, {path}: {getattr(error, 'found', f'not the receipt of a run, {error!r}')}")
    if not receipts:
        found = " ".join(notes) or f"There is none{'' if folder.is_dir() else ', nor such a folder'}."
        hint = "Run an experiment, or add the path of another folder of results to the command."
        raise UserError(f"A run is a file like {folder}/cnn/ilm_vp/RUN/result.json.", found, hint)
    return receipts, notes


def read_receipt(path: Path) -> Receipt:
    """A run's receipt. If it is damaged or belongs to another run, raises an error that `read_receipts` catches."""
    args, result = read_json(path / "args.json"), read_json(path / "result.json")
    method, identity = "/".join(path.parts[-3:-1]), (str(args["network"]), str(args["dataset"]), int(args["seed"]))
    own = {"method": method, "epochs": args["epoch"], **dict(zip(PLACE, identity, strict=True))}
    if differing := [name for name, value in own.items() if result.get(name, value) != value]:
        raise ValueError(f"another {', '.join(differing)} in result.json")
    command = shlex.split(str(result.get("command") or args["command"]))
    size = int(result.get("classes", 0)), int(result.get("test_size", 0))
    images = str(result.get("data", {}).get("test", ""))
    finished = bool(result) and result["status"] == "finished"
    result |= {key: value for key, value in read_json(path / "corruptions.json").items() if key == "corruptions_acc"}
    keys = [key for key, _, absent in METRICS.values() if not absent or result.get(key) is not None]
    if finished and not all(0 <= result[key] <= 1 for key in keys):
        raise ValueError("an accuracy outside of [0,1]")
    if "setting" not in args:
        raise ValueError("args.json lacks `setting`: a run of an older layout")
    column = Column(method, tuple(map(str, args["setting"])))
    return Receipt(path, column, *identity, int(args["epoch"]), args, result, command, size, images, finished)
