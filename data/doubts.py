"""What is allowed in a data set, but seldom meant: one line for each kind."""

import hashlib
from collections import Counter
from itertools import chain, combinations
from pathlib import Path

import numpy as np

from data.sources import ImageFiles
from data.splits import PARTS, Split, Splits
from errors import in_short, printable

Identity = tuple  # equal for files of equal content


def tell_doubts(splits: Splits) -> None:
    """Prints a line if an image file is in two splits, has two labels, or a class has no test image."""
    parts = {part: split for part in PARTS if (split := getattr(splits, part)) is not None}
    identities = identify(parts)
    doubts = [_in_both(parts, identities, *pair) for pair in combinations(parts, 2)]
    doubts += [_two_labels(parts, identities, splits.class_names), _untested(splits)]
    for doubt in filter(None, doubts):
        print(printable(f"{splits.name}: {doubt}"), flush=True)


def identify(parts: dict[str, Split]) -> dict[str, list[Identity]]:
    """By part, what tells each image file from others, whatever its copies and links are called: its content.

    Of a file that is missing it is the path. A part has none if its images are no files of their own.
    """
    files = {part: _files(split) for part, split in parts.items()}
    sampled = {part: [_sampled(file, *known) for file, known in rows] for part, rows in files.items()}
    count = Counter(chain.from_iterable(sampled.values()))
    return {
        part: [
            sample if count[sample] == 1 else (*sample, _checksum(file))
            for sample, (file, _) in zip(sampled[part], files[part], strict=True)
        ]
        for part in parts
    }


def _files(split: Split) -> list[tuple[Path, tuple]]:
    """Each image's file, and what the data set's fingerprint has of it."""
    if not isinstance(split.source, ImageFiles):
        return []
    indices = split.indices.tolist()
    files = [split.source.root / split.source.paths[index] for index in indices]
    return list(zip(files, split.source.identities(indices), strict=True))


def _sampled(file: Path, _name: str, size: int | None, checksum: int = 0) -> Identity:
    return (str(file),) if size is None else (size, checksum)


def _checksum(file: Path) -> str | None:
    """Of the whole file, not of the samples that large files have in a fingerprint."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except (OSError, ValueError):  # ValueError: no path can look like this
        return None


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
