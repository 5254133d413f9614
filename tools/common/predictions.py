"""What a model says of many images; the files that keep it; which of its mistakes are the worst."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tools.common.files import write_whole


class Prediction(NamedTuple):
    """The most likely classes of an image with their probabilities, and the probability of its own class."""

    best: list[tuple[int, float]]
    own: float | None


class Mistake(NamedTuple):
    position: int
    true: str
    true_probability: float
    predicted: str
    probability: float


class Predictions:
    """Of N images, some of which cannot be read.

    Args:
        files: N paths.
        labels: N labels, below 0 where an image has none; None if no labels were asked for.
        most: how many classes of an image are kept, at most.

    Attributes:
        by_position: the prediction of each image that could be read.
        damaged: by position, why another cannot be read.
    """

    def __init__(self, files: list[str], class_names: Sequence[str], labels: list[int] | None, most: int):
        self.files, self.class_names, self.labels = files, class_names, labels
        self.most = min(most, len(class_names))
        self.by_position: dict[int, Prediction] = {}
        self.damaged: dict[int, str] = {}

    def add(self, positions: list[int], probabilities: Tensor) -> None:
        """Adds the probabilities (b,T) of the images at b positions, b > 0."""
        best = probabilities.sort(descending=True, stable=True)  # stable: equals keep arg-max's order
        pairs = zip(best.indices[:, : self.most].tolist(), best.values[:, : self.most].tolist(), strict=True)
        for row, (position, (classes, values)) in enumerate(zip(positions, pairs, strict=True)):
            own = probabilities[row, self.labels[position]].item() if self._has_label(position) else None
            self.by_position[position] = Prediction(list(zip(classes, values, strict=True)), own)

    def named(self) -> dict[str, list[tuple[str, float]]]:
        """By file: the names and probabilities of its most likely classes."""
        named = {self.files[at]: found.best for at, found in self.by_position.items()}
        return {file: [(self.class_names[label], p) for label, p in best] for file, best in named.items()}

    def confusion(self) -> Tensor:
        """(T,T) int64, how many images of each class (second axis) are predicted as each class (first axis)."""
        counts = torch.zeros(len(self.class_names), len(self.class_names), dtype=torch.int64)
        for position, found in self.by_position.items():
            if self._has_label(position):
                counts[found.best[0][0], self.labels[position]] += 1
        return counts

    def worst_mistakes(self, most: int) -> list[Mistake]:
        """The mistakes in which the image's own class has the lowest probability, the lowest first."""
        mistakes = []
        for position, found in self.by_position.items():
            predicted, probability = found.best[0]
            if self._has_label(position) and predicted != self.labels[position]:
                names = self.class_names[self.labels[position]], self.class_names[predicted]
                mistakes.append(Mistake(position, names[0], found.own, names[1], probability))
        return sorted(mistakes, key=lambda mistake: mistake.true_probability)[:most]

    def _has_label(self, position: int) -> bool:
        return self.labels is not None and self.labels[position] >= 0


def write_csv(path: Path, predictions: Predictions) -> None:
    """One line an image, in order, and also for one that cannot be read: the column `error` says why.

    Spreadsheets take a cell that begins with = + - @ for a formula and carry it out. Such a class name gets an
    apostrophe before it, such a path `./`. What is not UTF-8 is written as escapes.
    """
    most, labels = predictions.most, predictions.labels
    names = [_cell(name) for name in predictions.class_names]
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        more = [f"{column}_{rank}" for rank in range(2, most + 1) for column in ("class", "probability")]
        writer.writerow(["path", "class", "probability", *more, *(["true_class"] if labels else []), "error"])
        for position, name in enumerate(predictions.files):
            best = predictions.by_position[position].best if position in predictions.by_position else []
            cells = [cell for label, p in best for cell in (names[label], f"{p:.6g}")] or [""] * 2 * most
            true = [names[labels[position]] if labels[position] >= 0 else ""] if labels else []
            error = _cell(predictions.damaged.get(position, ""))
            writer.writerow([f"./{name}" if _is_formula(name) else name, *cells, *true, error])


def write_test_predictions(
    folder: Path, epoch: int, class_names: Sequence[str], labels: Tensor, predicted: Tensor
) -> None:
    """Writes a run's `test_predictions.json`: the label and the prediction (N,) of each test image, in order."""
    content = {
        "epoch": epoch,
        "class_names": [*class_names],
        "labels": labels.tolist(),
        "predicted": predicted.tolist(),
    }
    text = json.dumps(content, separators=(",", ":"))
    write_whole(folder / "test_predictions.json", lambda file: file.write_text(text, encoding="utf-8"))


def _is_formula(text: str) -> bool:
    return text.startswith(("=", "+", "-", "@", "\t", "\r"))


def _cell(text: str) -> str:
    return f"'{text}" if _is_formula(text) else text
