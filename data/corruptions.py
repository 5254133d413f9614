"""CIFAR-10-C and CIFAR-100-C: the test images under many corruptions of five severities each (Hendrycks 2019)."""

from pathlib import Path

import numpy as np

from data.files import is_leftover
from data.sources import ImageArrays
from data.splits import Split, whole
from errors import UserError

SEVERITIES = 5
LABELS = "labels.npy"


def read_corruptions(folder: Path, num_classes: int) -> dict[str, list[Split]]:
    """The splits of a folder with CORRUPTION.npy files and labels.npy. Files are mapped; no pickle is opened.

    A CORRUPTION.npy holds (N,h,w,3) uint8: a fifth for each severity, the mildest first. labels.npy holds N integers,
    or N / 5 if they are the same for every severity.

    Returns:
        Five splits for each corruption, the mildest first. The keys are the files' names without .npy, sorted.

    Raises:
        UserError: a file is missing, cut off, or of another shape or type, or the labels are not 0 to num_classes - 1.
    """
    if not (folder / LABELS).is_file():
        raise _error(folder, f"There is no {LABELS} in it." if folder.is_dir() else "There is no such folder.")
    files = [file for file in folder.glob("*.npy") if file.name != LABELS and not is_leftover(file.name)]
    if not files:
        raise _error(folder, f"It holds no .npy file but {LABELS}.")
    labels = _labels(folder, num_classes)
    images = {file.stem: _images(file) for file in sorted(files, key=lambda file: file.stem)}
    # All must be as long as the longest. With N / 5 labels, one severity alone would else be taken for all five.
    longest = max(images, key=lambda name: len(images[name]))
    total = len(images[longest])
    if total not in (len(labels), SEVERITIES * len(labels)) or total % SEVERITIES:
        found = f"{LABELS} has {len(labels)} labels, {longest}.npy {total} images."
        raise _error(folder, f"{found} Expected: {SEVERITIES} severities, with the same labels or each with its own.")
    for name, array in images.items():
        if len(array) != total:
            raise _error(folder, f"{name}.npy has {len(array)} images, {longest}.npy {total}. Expected: as many.")
    return {name: _by_severity(array, labels) for name, array in images.items()}


def _by_severity(images: np.ndarray, labels: np.ndarray) -> list[Split]:
    parts = np.split(images, SEVERITIES)
    labels = np.resize(labels, (SEVERITIES, len(parts[0])))  # N / 5 labels are repeated
    return [whole(ImageArrays(part), own) for part, own in zip(parts, labels, strict=True)]


def _images(file: Path) -> np.ndarray:
    """(N,h,w,3) uint8, mapped."""
    array = _mapped(file)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or 0 in array.shape:
        raise _error(file.parent, f"{file.name} holds {array.dtype} {array.shape}. Expected: uint8 (N, h, w, 3).")
    return array


def _labels(folder: Path, num_classes: int) -> np.ndarray:
    """(N,) integers, the lowest 0, the highest num_classes - 1."""
    labels = _mapped(folder / LABELS)
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or len(labels) == 0:
        raise _error(folder, f"{LABELS} holds {labels.dtype} {labels.shape}. Expected: integers (N,).")
    if (labels.min(), labels.max()) != (
        0,
        num_classes - 1,
    ):  # nor lower: 10 classes for a model of 100
        found = f"The labels in {LABELS} run from {labels.min()} to {labels.max()}."
        raise _error(folder, f"{found} Expected: 0 to {num_classes - 1}, of {num_classes} classes.")
    return labels


def _mapped(file: Path) -> np.ndarray:
    try:
        return np.lib.format.open_memmap(file, mode="r")  # np.load would also open archives
    except Exception as error:  # NumPy raises many kinds for a damaged header
        raise _error(file.parent, f"{file.name} is cut off or holds no array of numbers: {error}") from None


def _error(folder: Path, found: str) -> UserError:
    return UserError(
        f"{folder}: {LABELS} and a CORRUPTION.npy for each corruption are read from this folder.",
        found,
        "CIFAR-10-C is the record 2535967 on zenodo.org, CIFAR-100-C the record 3555552: fetch the one of your classes,"
        " unpack its tar, and name the folder that comes out of it.",
    )
