"""Many runs in one CSV file, one line a run: what a table needs of a receipt, and how to repeat it.

Nothing in such a file is executed.
"""

import csv
import io
import json
import shlex
from collections.abc import Iterable
from pathlib import Path

from errors import UserError
from tools.reporting.methods import Column
from tools.reporting.receipts import METRICS, Receipt

_ACCURACIES = [key for key, *_ in METRICS.values()]
_RECEIPT = ["seconds", "device", "torch", "git_commit"]  # of result.json, as text
HEAD = ["method", "network", "dataset", "seed", "epochs", "precision", "setting", "classes", "test_size", "test_images"]
_ASKED = ["calls", "images_asked"]  # of a black box; a file of an earlier version lacks them
HEAD += [*_ACCURACIES, *_RECEIPT, *_ASKED, "command"]


def write_receipts(runs: Iterable[Receipt]) -> str:
    """Finished runs as CSV. An accuracy is in [0,1], `setting` a JSON list; what a run lacks is empty."""
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(HEAD)
    for run in runs:
        place = [run.column.method, run.network, run.dataset, run.seed, run.epochs, run.args.get("precision", "")]
        setting = json.dumps(run.column.setting, ensure_ascii=False)
        rest = ["" if (value := run.result.get(key)) is None else value for key in (*_ACCURACIES, *_RECEIPT, *_ASKED)]
        table.writerow([*place, setting, *run.size, run.images, *rest, shlex.join(run.command)])
    return file.getvalue()


def read_receipt_file(path: Path) -> tuple[list[Receipt], list[str]]:
    """The runs of a file that `write_receipts` made, and a note on each line that cannot be used.

    Raises:
        UserError: it is no such file.
    """
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        lines, found = [], f"{path} cannot be read: {error}."
    else:
        absent = [name for name in HEAD if not lines or name not in (*lines[0], *_ASKED)]
        found = f"{path} lacks {', '.join(absent)}." if lines else f"{path} has no line of a run."
        lines = [] if absent else lines
    if not lines:
        asked = "A file of receipts has one line a run."
        raise UserError(asked, found, "Make one: python tools/results_table.py --receipts FILE")
    receipts, notes = [], []
    for number, line in enumerate(lines, 2):
        try:
            receipts.append(_receipt(Path(f"{path}, run {number - 1}"), line))
        except (AttributeError, TypeError, ValueError, OverflowError, RecursionError) as error:
            notes.append(f"Left out, run {number - 1} of {path}: {error}")
    return receipts, notes


def _receipt(where: Path, line: dict[str, str]) -> Receipt:
    """The receipt in a line. Raises an error that `read_receipt_file` catches."""
    setting = json.loads(line["setting"])
    if not isinstance(setting, list) or not all(isinstance(word, str) for word in setting):
        raise ValueError("setting should be a list of words")
    result = {key: float(line[key]) for key in _ACCURACIES if line[key]}
    if "test_acc_last" not in result or not all(0 <= value <= 1 for value in result.values()):
        raise ValueError("an accuracy outside of [0,1], or none")
    return Receipt(
        path=where,
        column=Column(line["method"], tuple(setting)),
        network=line["network"],
        dataset=line["dataset"],
        seed=int(line["seed"]),
        epochs=int(line["epochs"]),
        args={"epoch": int(line["epochs"]), "precision": line["precision"]},
        result=result | {key: line[key] for key in _RECEIPT} | {key: int(line[key]) for key in _ASKED if line.get(key)},
        command=shlex.split(line["command"]),
        size=(int(line["classes"]), int(line["test_size"])),
        images=line["test_images"],
        finished=True,
    )
