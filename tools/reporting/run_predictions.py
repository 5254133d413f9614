"""A run's test_predictions.json: what it predicts for each test image, as arrays."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class RunPredictions:
    """The labels and the predictions (N,) int64 of the test images after the last epoch, and the class names (T)."""

    class_names: list[str]
    labels: np.ndarray
    predicted: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """(N,) bool."""
        return self.labels == self.predicted

    def fits(self, other: "RunPredictions") -> bool:
        """Whether both are of the same labels and class names."""
        return self.class_names == other.class_names and np.array_equal(self.labels, other.labels)

    @property
    def confusion(self) -> np.ndarray:
        """(T,T) int64: how many images of each class (second axis) are predicted as each class (first axis)."""
        number = len(self.class_names)
        pairs = self.predicted * number + self.labels
        return np.bincount(pairs, minlength=number**2).reshape(number, number)


def read_predictions(folder: Path) -> RunPredictions | None:
    """What the file in a run's folder holds; None if there is no file. Raises ValueError if it is damaged."""
    file = folder / "test_predictions.json"
    if not file.exists():  # a run of an earlier version, or one without a finished epoch
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not {"class_names", "labels", "predicted"} <= content.keys():
        raise ValueError("it lacks class_names, labels or predicted")
    names = [str(name) for name in content["class_names"]]
    labels, predicted = (np.asarray(content[key], dtype=np.int64) for key in ("labels", "predicted"))
    if labels.ndim != 1 or labels.shape != predicted.shape or not len(labels):
        raise ValueError(f"it has {labels.shape} labels and {predicted.shape} predictions")
    if min(labels.min(), predicted.min()) < 0 or max(labels.max(), predicted.max()) >= len(names):
        raise ValueError(f"it has numbers of classes outside of 0 to {len(names) - 1}")
    return RunPredictions(names, labels, predicted)
