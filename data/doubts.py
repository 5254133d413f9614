"""What is allowed in a data set, but seldom meant: one line for each kind."""

import os
from itertools import combinations

import numpy as np

from data.splits import PARTS, ImageFiles, Split, Splits
from errors import in_short, printable

Identity = tuple[int, int] | str


def tell_doubts(splits: Splits) -> None:
    """Prints a line if an image file is in two splits, has two labels, or a class has no test image."""
    parts = {part: split for part in PARTS if (split := getattr(splits, part)) is not None}
    identities = {part: identify(split) for part, split in parts.items()}
    doubts = [_in_both(parts, identities, *pair) for pair in combinations(parts, 2)]
    doubts += [_two_labels(parts, identities, splits.class_names), _untested(splits)]
    for doubt in filter(None, doubts):
        print(printable(f"{splits.name}: {doubt}"), flush=True)


def identify(split: Split) -> list[Identity]:
    """What tells an image file from others, whatever links lead to it: device and inode, or a missing file's path.

    Empty if the images are not files of their own.
    """
    if not isinstance(split.source, ImageFiles):
        return []
    root, paths = os.fspath(split.source.root), split.source.paths
    return [_identity(os.path.join(root, paths[index])) for index in split.indices.tolist()]


def _identity(path: str) -> Identity:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: no path can look like this
        return path
    return (status.st_dev, status.st_ino)


def _in_both(parts: dict[str, Split], identities: dict[str, list[Identity]], first: str, second: str) -> str | None:
    there = set(identities[first])
    both = [position for position, identity in enumerate(identities[second]) if identity in there]
    if both:
        example = parts[second].name(both[0])
        return f"images that are both in {first} and in {second}: {len(both)}, such as {example}"


def _two_labels(
    parts: dict[str, Split], identities: dict[str, list[Identity]], class_names: tuple[str, ...]
) -> str | None:
    first: dict[Identity, int] = {}
    several: dict[Identity, str] = {}
    for part, split in parts.items():
        for position, identity in enumerate(identities[part]):
            label = int(split.labels[position])
            if (other := first.setdefault(identity, label)) != label:
                several.setdefault(identity, f"{split.name(position)} ({class_names[other]}, {class_names[label]})")
    if several:
        return f"images with more than one label: {len(several)}, such as {next(iter(several.values()))}"


def _untested(splits: Splits) -> str | None:
    counts = np.bincount(splits.test.labels, minlength=splits.num_classes)
    names = [splits.class_names[label] for label in np.flatnonzero(counts == 0)]
    if names:
        return f"classes without a test image: {len(names)}, such as {in_short(names)}"
