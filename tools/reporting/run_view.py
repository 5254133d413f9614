"""A run as a page shows it: its numbers in words, small pictures, and notes on files that could not be read."""

from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from tools.common.log import Log
from tools.common.receipt import summarise
from tools.common.shell import in_shell
from tools.reporting.drawings import Flow, flow, web_picture
from tools.reporting.evaluations import read_evaluations
from tools.reporting.receipts import METRICS, Receipt, number
from tools.reporting.run_predictions import RunPredictions, read_predictions

# file -> its largest width and height in the page, in pixels, and what it shows
_PICTURES = {
    "prompt.png": ((800, 320), "The learned prompt on test images"),
    "mapping.png": (
        (1200, 800),
        "The label mapping: what the test images of each target class are predicted as, over all source classes and"
        " among the targets",
    ),
    "calibration.png": ((800, 400), "Reliability diagram: accuracy of the test images by confidence"),
}


@dataclass(frozen=True)
class Picture:
    """An image that needs no file: `source` is a data: URL, sizes are in pixels."""

    name: str
    source: str
    width: int
    height: int
    text: str


@dataclass(frozen=True)
class RunView:
    """What a page shows of a run.

    Args:
        records: its epochs, from log.jsonl.
        numbers: the accuracies of METRICS, in [0,1], and the seconds; None for a missing number.
        predictions: of the test images after its last epoch; None if they are not told.
        flow: how its label mapping changed; None if it did not change after the first epoch, or the log does not say.
        notes: which of its files could not be read, and why.
        evaluations: what evaluate.py kept of it, by heading.
    """

    receipt: Receipt
    records: list[dict]
    numbers: dict[str, float | None]
    pictures: list[Picture]
    predictions: RunPredictions | None
    flow: Flow | None
    notes: list[str]
    evaluations: dict[str, dict[str, object]] = field(default_factory=dict)

    @property
    def status(self) -> str:
        return "finished" if self.receipt.finished else str(self.receipt.result.get("status", "no result yet"))

    @property
    def command(self) -> str:
        return in_shell(self.receipt.command)

    @property
    def mapping(self) -> dict[str, str]:
        """Target label -> source label, in words."""
        mapping = self.receipt.result.get("mapping")
        return {key: in_words(value) for key, value in mapping.items()} if isinstance(mapping, dict) else {}

    @property
    def tables(self) -> dict[str, dict[str, str]]:
        """args.json and result.json in words, without the mapping, and what evaluate.py kept."""
        files = {"Arguments": self.receipt.args, "Receipt": self.receipt.result, **self.evaluations}
        return {name: {k: in_words(v) for k, v in file.items() if k != "mapping"} for name, file in files.items()}


def view(receipt: Receipt) -> RunView:
    """Reads a run's log and pictures. It never raises for damaged files: the notes name them."""
    records, notes = read_log(receipt.path / "log.jsonl")
    summary, pictures = {}, []
    try:
        summary = summarise(records) if records else {}
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        notes.append(f"log.jsonl cannot be summed up: {error!r}.")
    found = summary | receipt.result
    numbers = {key: number(found.get(key)) for key in (*(key for key, *_ in METRICS.values()), "seconds")}
    for name, (largest, text) in _PICTURES.items():
        try:
            if (receipt.path / name).exists():  # some methods have none, and a stopped run may have none
                pictures.append(small_picture(receipt.path / name, largest, text))
        except Exception as error:  # a damaged picture raises nearly anything
            notes.append(f"{name} cannot be read: {' '.join(str(error).split()) or type(error).__name__}.")
    predictions = None
    try:
        predictions = read_predictions(receipt.path)
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        notes.append(f"test_predictions.json cannot be used: {' '.join(str(error).split())}.")
    evaluations, more = read_evaluations(receipt.path)
    notes += more
    return RunView(receipt, records, numbers, pictures, predictions, flow(records), notes, evaluations)


def read_log(path: Path) -> tuple[list[dict], list[str]]:
    """The epochs of log.jsonl up to the first damaged line, and a note if there is such a line."""
    log, notes = Log(path), []
    try:
        log.read()
        lines = [line for line in path.read_bytes().splitlines() if line.strip()] if path.is_file() else []
        if len(lines) > len(log.records):
            notes.append(f"log.jsonl can be read up to its line {len(log.records)} of {len(lines)}.")
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"log.jsonl cannot be read: {error!r}.")
    return log.records, notes


def small_picture(file: Path, largest: tuple[int, int], text: str) -> Picture:
    """A picture of at most this width and height, as WebP. If the file is damaged, it raises Pillow's error."""
    with Image.open(file) as image:
        picture = image.convert("RGB")
    picture.thumbnail(largest, Image.Resampling.LANCZOS)
    return Picture(file.stem, web_picture(picture, quality=60), *picture.size, text)


def in_words(value: object) -> str:
    """A value of a JSON file for people; fractions to four digits."""
    if isinstance(value, list):
        return ", ".join(map(in_words, value)) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
