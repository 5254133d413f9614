"""Lists of images and labels. Nothing is decoded here: a split knows where its images are, and opens one at a time."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from data.image_file import DECODING
from data.sources import ImageSource
from errors import UserError, in_short, printable

if TYPE_CHECKING:  # to list images needs no torch
    from torch import Tensor

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Images of a source, chosen by `indices` (N,) int64, and their labels (N,) int64."""

    source: ImageSource
    indices: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def open(self, position: int) -> Image.Image:
        return self.source.open(self.indices[position])

    def name(self, position: int) -> str:
        return self.source.name(self.indices[position])

    @property
    def fingerprint(self) -> str:
        """`33 images, 0c1d2e3f4a5b`: equal if names, contents, labels and their order are, wherever the images lie."""
        images = self.source.identities(self.indices.tolist())
        return f"{len(self)} images, {_hash([DECODING, images, self.labels.tolist()])}"

    def take(self, positions: np.ndarray) -> "Split":
        return replace(self, indices=self.indices[positions], labels=self.labels[positions])


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def whole(source: ImageSource, labels: Sequence[int]) -> Split:
    """The split of all images of a source, in order."""
    return Split(source, np.arange(len(labels)), np.asarray(labels, dtype=np.int64))


@dataclass(frozen=True)
class Splits:
    """A data set as it is read, and what a method needs to know of it.

    Args:
        class_names: by label.
        val: None if there is no validation split.
        image_size, batch_size, text_template: see `data.dataset.Dataset`.
        inner_mask: (h,w) float32, 1 where the prompt may learn inside the image; None if it learns only around it.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    val: Split | None
    test: Split
    image_size: int = 128
    batch_size: int = 128
    text_template: str | None = None
    inner_mask: "Tensor | None" = None

    def __post_init__(self):
        twice = sorted({name for name in self.class_names if self.class_names.count(name) > 1})
        if twice:
            raise UserError(
                f"--dataset {self.name}: class names are compared in lower case, `_` and `-` as spaces.",
                f"More than one class is called {', '.join(twice)}.",
                "Rename all but one of them.",
            )
        for part in PARTS:
            split = getattr(self, part)
            if split is None:
                continue
            if len(split) == 0:
                raise self._error(f"The {part} split is empty.")
            if split.labels.min() < 0 or split.labels.max() >= len(self.class_names):
                lowest, highest = split.labels.min(), split.labels.max()
                raise self._error(
                    f"The labels of the {part} split run from {lowest} to {highest};"
                    f" with {len(self.class_names)} classes they run from 0 to {len(self.class_names) - 1}."
                )
        empty = np.flatnonzero(np.bincount(self.train.labels, minlength=len(self.class_names)) == 0)
        if len(empty):
            names = ", ".join(f"{label} ({self.class_names[label]})" for label in empty)
            raise self._error(f"No training image has the label {names}.")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images by split; 0 if there is no such split."""
        return {part: len(getattr(self, part) or ()) for part in PARTS}

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """What was read, by split and for the class names. Two data sets of one name are the same if it is equal."""
        parts = {part: getattr(self, part) for part in PARTS}
        names = f"{self.num_classes} classes, {_hash(self.class_names)}"
        return {part: split.fingerprint if split else "none" for part, split in parts.items()} | {"classes": names}

    def _error(self, found: str) -> UserError:
        return UserError(
            f"--dataset {self.name}: every class needs training images, and labels run from 0 without gaps.",
            found,
            f"Correct the split file or the folders of {self.name}, then type the command again.",
        )

    def with_validation(self, fraction: float, seed: int) -> "Splits":
        """Moves a stratified `fraction` of the training split to a validation split, if there is none yet.

        Raises:
            UserError: no class has an image to spare.
        """
        if self.val is not None or not fraction:
            return self
        chosen = per_class(self.train.labels, lambda count: min(max(1, round(fraction * count)), count - 1), seed)
        if not len(chosen):
            raise UserError(
                f"--val-fraction {fraction:g}: the validation images are taken from the training images of each class.",
                f"--dataset {self.name} has one training image a class, and it is needed for training.",
                "Leave --val-fraction out, or add training images.",
            )
        rest = np.setdiff1d(np.arange(len(self.train)), chosen)
        return replace(self, train=self.train.take(rest), val=self.train.take(chosen))

    def with_less_training(self, shots: int | None, fraction: float | None, seed: int) -> "Splits":
        """Keeps `shots` training images of each class (all if it has fewer), or a `fraction` of each (at least 1)."""
        if shots:
            return replace(self, train=self._shots("train", shots, seed))
        if fraction:
            chosen = per_class(self.train.labels, lambda count: max(1, round(fraction * count)), seed)
            return replace(self, train=self.train.take(chosen))
        return self

    def with_less_validation(self, shots: int | None, seed: int) -> "Splits":
        """Keeps `shots` validation images of each class (all if it has fewer).

        Raises:
            UserError: there is no validation split.
        """
        if not shots:
            return self
        if self.val is None:
            raise UserError(
                f"--val-shots {shots}: so many images of each class are kept in the validation split.",
                f"--dataset {self.name} has no validation split.",
                "Leave --val-shots out, or add --val-fraction 0.1 to make a validation split.",
            )
        return replace(self, val=self._shots("val", shots, seed))

    def _shots(self, part: str, shots: int, seed: int) -> Split:
        """`shots` images of each class of a split. Which classes have fewer is told in one line."""
        split = getattr(self, part)
        counts = np.bincount(split.labels, minlength=self.num_classes)
        if fewer := [f"{self.class_names[label]} ({counts[label]})" for label in np.flatnonzero(counts < shots)]:
            line = f"{self.name} {part}: fewer than {shots} images of {in_short(fewer)}; all of them are used"
            print(printable(line), flush=True)
        return split.take(per_class(split.labels, lambda count: min(shots, count), seed))


def per_class(labels: np.ndarray, how_many: Callable[[int], int], seed: int) -> np.ndarray:
    """Positions, in ascending order, of `how_many(count)` images drawn at random from each class of `count` images."""
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    return np.sort(np.concatenate([generator.permutation(m)[: how_many(len(m))] for m in members]))
