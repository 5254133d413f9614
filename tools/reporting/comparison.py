"""The methods on one data set side by side: prompts, confusion matrices, images that only some of them get right."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from data.catalog import find_dataset
from data.splits import Split
from errors import UserError
from tools.reporting.drawings import FEW, confused_most, confusion_svg, web_picture
from tools.reporting.methods import Column
from tools.reporting.run_predictions import RunPredictions
from tools.reporting.run_view import Picture, RunView

_IMAGES = 24  # at most, that tell methods apart
_EXAMPLES = 3  # of them for each pair of methods
_THUMBNAIL = 96  # pixels


@dataclass(frozen=True)
class Matrix:
    """A method's confusion matrix over `seeds` runs, whether it has `few` classes, its most frequent mistakes."""

    method: str
    label: str
    svg: Markup
    seeds: int
    few: bool
    mistakes: list[str]


@dataclass(frozen=True)
class Image:
    """A test image that some methods get right and others wrong.

    Args:
        guesses: by method: the predicted class, and whether it is right.
    """

    position: int
    true: str
    picture: Picture | None
    guesses: list[tuple[str, bool]]


@dataclass(frozen=True)
class Comparison:
    """What the page shows of the methods on one data set.

    Args:
        prompts: method, label and picture of each column whose prompt is drawn.
        compared: method and label of each of the M columns whose predictions are told; so the order of `matrices`.
        wins: (M,M), how many images the row's method gets right and the column's method wrong; empty for M = 1.
        notes: what is left out, and why.
    """

    network: str
    dataset: str
    prompts: list[tuple[str, str, Picture]] = field(default_factory=list)
    compared: list[tuple[str, str]] = field(default_factory=list)
    matrices: list[Matrix] = field(default_factory=list)
    wins: list[list[int]] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def comparisons(runs: Iterable[RunView], shared: dict[str, set[str]]) -> list[Comparison]:
    """One for each network and data set, in the order of the runs. `shared`: the flags of all columns, by network."""
    places: dict[tuple[str, str], dict[Column, list[RunView]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        places[run.receipt.network, run.receipt.dataset][run.receipt.column].append(run)
    found = [compare(*place, dict(sorted(columns.items())), shared[place[0]]) for place, columns in places.items()]
    return [each for each in found if each.prompts or each.matrices]


def compare(network: str, dataset: str, columns: dict[Column, list[RunView]], shared: set[str]) -> Comparison:
    """The runs of all columns. What cannot be compared with most of them is left out, with a note."""
    result = Comparison(network, dataset)
    known = [run.receipt.images for runs in columns.values() for run in runs if run.receipt.images]
    usual = {"", max(known, key=known.count, default="")}  # receipts of earlier versions do not tell the images
    runs = [run for runs in columns.values() for run in runs if run.receipt.images in usual and run.predictions]
    tests = (
        ("on other test images", lambda run: run.receipt.images in usual),
        ("without test_predictions.json", lambda run: run.predictions),
        ("whose test_predictions.json has other labels", lambda run: run.predictions.fits(runs[0].predictions)),
    )
    firsts = []
    for column, left in columns.items():
        named = column.method, column.label(shared)
        same = [run for run in left if run.receipt.images in usual]
        drawn = [picture for run in same for picture in run.pictures if picture.name == "prompt"]
        result.prompts.extend((*named, picture) for picture in drawn[:1])
        for why, passes in tests:
            passed = [run for run in left if passes(run)]
            if count := len(left) - len(passed):
                result.notes.append(f"Left out, {named[1]}: {count} {'runs' if count > 1 else 'run'} {why}.")
            left = passed
        if left:
            result.compared.append(named)
            result.matrices.append(matrix(*named, [run.predictions for run in left]))
            firsts.append(left[0].predictions)
    if len(firsts) > 1:
        tell_apart(result, firsts, max(usual))
    return result


def matrix(method: str, label: str, runs: Sequence[RunPredictions]) -> Matrix:
    names, counts = runs[0].class_names, sum(run.confusion for run in runs)
    drawn, mistakes = confusion_svg(counts, names), confused_most(counts, names, 5)
    return Matrix(method, label, drawn, len(runs), len(names) <= FEW, mistakes)


def tell_apart(result: Comparison, runs: Sequence[RunPredictions], fingerprint: str) -> None:
    """Adds the numbers of images that one method gets right and another wrong, and some of these images."""
    right = np.stack([run.right for run in runs])  # (M,N)
    result.wins.extend((right.astype(np.int64) @ ~right.T).tolist())
    chosen = telling(right)
    images = find_images(result.dataset, fingerprint) if chosen else None
    if isinstance(images, str):
        result.notes.append(images)
    names, labels = runs[0].class_names, runs[0].labels
    for position in chosen:
        picture = thumbnail(images, position) if isinstance(images, Split) else None
        guesses = [(names[run.predicted[position]], bool(run.right[position])) for run in runs]
        result.images.append(Image(position, names[labels[position]], picture, guesses))


def telling(right: np.ndarray, most: int = _IMAGES) -> list[int]:
    """Images by which methods differ, from which of M methods is right on which of N images, (M,N) bool.

    Each pair of methods wants _EXAMPLES images that its first method gets right and its second wrong. The image that
    the largest number of pairs wants is next, of equals the first.
    """
    pairs = right[:, None] & ~right[None]  # (M,M,N)
    wanted = pairs.sum(2).clip(max=_EXAMPLES)
    chosen: list[int] = []
    while wanted.any() and len(chosen) < most:
        position = int((pairs & (wanted > 0)[..., None]).sum((0, 1)).argmax())
        chosen.append(position)
        wanted = (wanted - pairs[..., position]).clip(min=0)
        pairs[..., position] = False
    return chosen


def find_images(dataset: str, fingerprint: str) -> Split | str:
    """The data set's test split, if its images are those of the runs; else why their pictures are missing."""
    missing = "The pictures of the test images are missing"
    try:
        split = find_dataset(dataset).read().test
        if split.fingerprint == fingerprint:
            return split
        return f"{missing}: the data set {dataset} has other test images here."
    except (UserError, OSError, ValueError) as error:
        return f"{missing}: {getattr(error, 'found', error)}"


def thumbnail(split: Split, position: int) -> Picture | None:
    """A small picture of a test image; None if it cannot be decoded."""
    try:
        image = split.open(position)
    except Exception:  # a damaged image raises nearly anything
        return None
    image = image.point(lambda value: 255 * value).convert("RGB") if image.mode == "F" else image.convert("RGB")
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return Picture(split.name(position), web_picture(image, quality=70), *image.size, split.name(position))
