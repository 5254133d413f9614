"""A run as a page shows it: its numbers in words, its pictures made small, and what of it could not be read."""

import base64
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from tools.common.log import Log
from tools.common.receipt import summarise
from tools.common.results import METRICS, Receipt, number

# file -> width and height in the page's data at most, in pixels; what it shows.
_PICTURES = {
    "prompt.png": (800, 320, "The learned prompt around test images"),
    "mapping.png": (800, 800, "Heat map of the label mapping: what the test images of each target class are taken for"),
}


@dataclass(frozen=True)
class Picture:
    """An image that needs no file: `source` is a data: address, sizes are in pixels."""

    name: str
    source: str
    width: int
    height: int
    text: str


@dataclass
class RunView:
    """What a page shows of a run.

    Attributes:
        records: its epochs, from log.jsonl.
        numbers: the accuracies in [0,1] of METRICS, None where there is none; seconds, and epochs done.
        mapping: target -> source, in words.
        notes: what of its files could not be read.
    """

    receipt: Receipt
    records: list[dict] = field(default_factory=list)
    numbers: dict[str, float | None] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    mapping: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        return "finished" if self.receipt.finished else str(self.receipt.result.get("status", "no result yet"))

    @property
    def command(self) -> str:
        return shlex.join(self.receipt.command)

    @property
    def tables(self) -> dict[str, dict[str, str]]:
        """args.json and result.json in words; the map stands elsewhere."""
        files = {"Arguments": self.receipt.args, "Receipt": self.receipt.result}
        return {
            title: {key: in_words(v) for key, v in file.items() if key != "mapping"} for title, file in files.items()
        }


def view(receipt: Receipt) -> RunView:
    """Reads a run's log and pictures; never raises for what is in them."""
    run = RunView(receipt)
    _read_log(run)
    try:
        summary = summarise(run.records) if run.records else {}
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        summary = {}
        run.notes.append(f"log.jsonl cannot be summed up: {error!r}.")
    wanted = [key for key, *_ in METRICS.values()] + ["seconds", "epochs_done"]
    run.numbers = {key: number((summary | receipt.result).get(key)) for key in wanted}
    mapping = receipt.result.get("mapping")
    run.mapping = {key: in_words(value) for key, value in mapping.items()} if isinstance(mapping, dict) else {}
    for name, (*most, text) in _PICTURES.items():
        try:
            run.pictures.append(small_picture(receipt.path / name, most, text))
        except FileNotFoundError:
            pass  # not every method has it, and a run that was stopped may not
        except Exception as error:  # a damaged picture raises nearly anything
            run.notes.append(f"{name} cannot be read: {' '.join(str(error).split()) or type(error).__name__}.")
    return run


def _read_log(run: RunView) -> None:
    log = Log(run.receipt.path / "log.jsonl")
    try:
        log.read()
        lines = [line for line in log.path.read_bytes().splitlines() if line.strip()] if log.path.is_file() else []
        if len(lines) > len(log.records):
            run.notes.append(f"log.jsonl can be read up to its line {len(log.records)} of {len(lines)}.")
    except (OSError, ValueError, RecursionError) as error:
        run.notes.append(f"log.jsonl cannot be read: {error!r}.")
    run.records = log.records


def small_picture(file: Path, most: Sequence[int], text: str) -> Picture:
    """A picture of at most so many pixels in width and height, as WebP; what Pillow raises where it is damaged."""
    with Image.open(file) as image:
        picture = image.convert("RGB")
    picture.thumbnail(tuple(most), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=60)
    return Picture(
        file.stem, f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}", *picture.size, text
    )


def in_words(value: object) -> str:
    """A value of a JSON file for people; fractions to four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(in_words, value)) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return str(value)
