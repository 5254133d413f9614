"""What images a CLIP expects: its mean, standard deviation, resize mode and interpolation, and who says so.

A tag of open_clip has them. For a file a config may have them, or all tags of the architecture agree, or the user says.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import open_clip

from errors import UserError

_WORDS = {
    "shortest": ("resize_mode", "shortest"),
    "squash": ("resize_mode", "squash"),
    "bicubic": ("interpolation", "bicubic"),
    "bilinear": ("interpolation", "bilinear"),
}
_DEFAULT = {  # open_clip's own, for an architecture without published weights
    "mean": open_clip.OPENAI_DATASET_MEAN,
    "std": open_clip.OPENAI_DATASET_STD,
    "resize_mode": "shortest",
    "interpolation": "bicubic",
}
SPELLING = (
    "MEAN:STD, MEAN:STD:squash or MEAN:STD:squash:bilinear, each of MEAN and STD one number or three (0.5,0.5,0.5)"
)


def preprocessing_of(
    model: str, tags: Sequence[str], pretrained: str, asked: str | None, config: dict | None
) -> dict[str, Any]:
    """The preprocessing for a file of weights: `mean`, `std`, `resize_mode`, `interpolation`, as open_clip names them.

    Args:
        model, tags: open_clip's name of the architecture, and the tags of its published weights.
        pretrained: the file.
        asked: --preprocess: a tag of the architecture, or what `spelled` gives; None if the user did not say.
        config: the `preprocess_cfg` of --clip-config; None if it has none.

    Raises:
        UserError: `asked` or `config` is no preprocessing, or nobody says it and the architecture's tags disagree.
    """
    if asked in tags:
        return _published(model, asked)
    if asked is not None:
        return _read(asked, tags)
    if config is not None:
        return _checked(f"--clip-config {model}.json", _DEFAULT | config)
    groups = defaultdict(list)
    for tag in tags:
        groups[spelled(_published(model, tag))].append(tag)
    if len(groups) > 1:
        ways = "; ".join(f"{', '.join(members)}: {way}" for way, members in groups.items())
        raise UserError(
            f"--pretrained {pretrained}: a file does not say how its images were normalised and resized.",
            f"The published weights of {model} disagree. {ways}.",
            f"Add {' or '.join(f'--preprocess {members[0]}' for members in groups.values())}, as these weights were"
            f" trained. Other values: --preprocess {SPELLING}",
        )
    return _published(model, tags[0]) if tags else _DEFAULT


def spelled(preprocessing: dict[str, Any]) -> str:
    """The preprocessing as --preprocess takes it, MEAN:STD:RESIZE:INTERPOLATION. Equal ones have equal texts."""
    numbers = (",".join(map(repr, map(float, preprocessing[key]))) for key in ("mean", "std"))
    return ":".join([*numbers, preprocessing["resize_mode"], preprocessing["interpolation"]])


def earlier_preprocessing(model: str, config: str | None) -> str:
    """What earlier versions of this repository took for any file of weights: the first tag's preprocessing."""
    tags = [] if config else open_clip.list_pretrained_tags_by_model(model)
    return spelled(_published(model, tags[0]) if tags else _DEFAULT)


def _published(model: str, tag: str) -> dict[str, Any]:
    return _DEFAULT | open_clip.get_pretrained_cfg(model, tag)


def _read(text: str, tags: Sequence[str]) -> dict[str, Any]:
    mean, _, rest = text.partition(":")
    std, *words = rest.split(":")
    asked = f"--preprocess {text}"
    if not rest or not _WORDS.keys() >= set(words) or len({_WORDS[word][0] for word in words}) < len(words):
        found = f"Known tags: {', '.join(tags) or 'none for this model'}."
        raise UserError(f"{asked}: a tag of the model, or the values are needed.", found, f"Type {SPELLING}")
    try:
        numbers = {"mean": [float(part) for part in mean.split(",")], "std": [float(part) for part in std.split(",")]}
    except ValueError as error:
        raise UserError(f"{asked}: numbers are needed.", f"{error}.", f"Type {SPELLING}") from None
    return _checked(asked, _DEFAULT | numbers | dict(_WORDS[word] for word in words))


def _checked(asked: str, preprocessing: dict[str, Any]) -> dict[str, Any]:
    """The preprocessing, with three numbers where one was given. Raises UserError if a value cannot be right."""
    wrong = [key for key in ("resize_mode", "interpolation") if (key, preprocessing[key]) not in _WORDS.values()]
    checked = dict(preprocessing)
    for key, least in (("mean", -math.inf), ("std", 0)):
        value = preprocessing[key]
        numbers = list(value) if isinstance(value, list | tuple) else [value]
        checked[key] = tuple(numbers * 3 if len(numbers) == 1 else numbers)
        if len(checked[key]) != 3 or not all(type(n) in (int, float) and least < n < math.inf for n in numbers):
            wrong.append(key)
    if wrong:
        raise UserError(
            f"{asked}: mean and std are one number or three, std above 0; resize_mode is shortest or squash;"
            " interpolation is bicubic or bilinear.",
            f"Found {', '.join(f'{key} {preprocessing[key]!r}' for key in wrong)}.",
            f"Mend it, or type --preprocess {SPELLING}",
        )
    return checked
