"""From a PIL image to pixels: a list of torchvision's v2 transforms in two parts, a fixed one and a random one.

The fixed part is the leading transforms that draw nothing at random. It runs once for each image, on PIL images, so
that resizing is antialiased. The rest runs in every epoch, on tensors. Each image has a seed of its own there. A
transform of the rest may be any callable that draws from torch's CPU generator, (3,h,w) uint8 -> (3,h,w) uint8.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from errors import UserError

# What a checkpoint's transforms may ask for at most: pixels of a side, pixels of padding, transforms.
LARGEST_SIDE, _LARGEST_PADDING, _MOST = 4096, 512, 8

# The transforms of the fixed part with the arguments that describe them; only these are rebuilt from a checkpoint.
_FIXED: dict[type, tuple[str, ...]] = {
    v2.Resize: ("size", "interpolation", "max_size"),
    v2.CenterCrop: ("size",),
    v2.Pad: ("padding", "fill", "padding_mode"),
    v2.Grayscale: ("num_output_channels",),
}


def random_crops(size: int) -> dict[str, list[Callable]]:
    """`train` and `eval` of AttrVR (Cai et al., ICLR 2025), DVP and RVP: crops of `size` pixels of a bicubic resize.

    Training crops a random part of the image and flips it at random; evaluation takes the centre.
    """
    resize = v2.Resize(size, InterpolationMode.BICUBIC)
    train = [resize, v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
    return {"train": train, "eval": [resize, v2.CenterCrop(size)]}


def split_transforms(transforms: Sequence[Callable]) -> tuple[list[Callable], list[Callable]]:
    """The fixed part of a list of transforms, and the part that runs in every epoch."""
    kinds = [type(transform) in _FIXED for transform in transforms]
    first = kinds.index(False) if False in kinds else len(kinds)
    return list(transforms[:first]), list(transforms[first:])


def decode(fixed: Sequence[Callable], image: Image.Image) -> np.ndarray:
    """The fixed part of one image.

    Args:
        image: mode RGB, or F with values in [0,1].

    Returns:
        (h,w,3) uint8, or float32 in [0,1] for mode F, whose three channels are equal.

    Raises:
        ValueError: the image is so narrow that resizing its shorter side would give gigapixels.
    """
    is_float = image.mode == "F"
    for transform in fixed:
        shorter = type(transform) is v2.Resize and transform.max_size is None and len(transform.size) == 1
        if shorter and transform.size[0] ** 2 * max(image.size) > min(image.size) * Image.MAX_IMAGE_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are too narrow")
        if not (
            is_float and type(transform) is v2.Grayscale
        ):  # the image is grey already, and PIL would round it to 0 and 1
            image = transform(image)
    if is_float:  # bicubic overshoots; PIL clips integers by itself
        return np.repeat(np.array(image).clip(0, 1)[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))


def keeps_size(fixed: Sequence[Callable], height: int, width: int) -> bool:
    """Whether the fixed part leaves images of this size as they are: it only resizes and crops them to this size."""
    same = [[height, width], [height]] if height == width else [[height, width]]
    return all(type(each) in (v2.Resize, v2.CenterCrop) and list(each.size or ()) in same for each in fixed)


def vary(transforms: Sequence[Callable], image: Tensor, seed: int) -> Tensor:
    """Applies the part that runs in every epoch to one image.

    Torch's CPU generator is seeded and not restored. (`torch.manual_seed` also seeds every GPU and takes 50 times as
    long.)

    Args:
        image: (3,h,w) uint8, or float32 in [0,1]. It may be changed.
    """
    torch.default_generator.manual_seed(seed)
    for transform in transforms:
        image = transform(image)
    return image


def describe_transforms(transforms: Sequence[Callable]) -> list[list]:
    """[class name, arguments] of each transform, in plain values; one that is not fixed has its `repr` as arguments."""
    return [
        [type(each).__name__, {name: _plain(getattr(each, name)) for name in _FIXED[type(each)]}]
        if type(each) in _FIXED
        else [type(each).__name__, repr(each)]
        for each in transforms
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return list(map(_plain, value))
    return value if isinstance(value, int | float | str | None) else repr(value)


def restore_transforms(setup: dict, otherwise: Callable[[dict], list[Callable]]) -> list[Callable]:
    """The evaluation transforms that a checkpoint's `setup` names; `otherwise(setup)` if it names none.

    A checkpoint holds what `describe_transforms` returns; an older one holds a dict. Only the classes of the fixed part
    are looked up by name.

    Raises:
        UserError: what it names is no list of transforms.
    """
    if "transform" not in setup:
        return otherwise(setup)
    named = setup["transform"]
    try:
        if len(named) > _MOST:
            raise ValueError(f"{len(named)} transforms")
        restored = [_restore_one(*one) for one in named] if isinstance(named, list) else _restore_older(**named)
        decode(restored, Image.new("RGB", (13, 11)))  # whether the arguments make sense
        return restored
    except Exception:  # a file may hold anything
        raise UserError(
            'The checkpoint\'s `transform` is a list such as [["Resize", {"size": [128, 128]}]].'
            " In an older checkpoint it has a size, and may have a crop, `random`, `shorter` and `bicubic`.",
            f"Found {named!r:.500}.",
            "Give another file.",
        ) from None


def _restore_one(name: str, arguments: dict) -> Callable:
    kind = {kind.__name__: kind for kind in _FIXED}[name]
    most = _LARGEST_PADDING if kind is v2.Pad else LARGEST_SIDE
    if not (arguments.keys() <= set(_FIXED[kind]) and all(_is_sensible(value, most) for value in arguments.values())):
        raise ValueError(arguments)
    if isinstance(arguments.get("interpolation"), str):  # older versions of torchvision take no text
        arguments = arguments | {"interpolation": InterpolationMode(arguments["interpolation"])}
    return kind(**arguments)


def _is_sensible(value: Any, most: int) -> bool:
    if type(value) is list:
        return len(value) <= 4 and all(type(each) is not list and _is_sensible(each, most) for each in value)
    return type(value) in (str, type(None)) or (type(value) in (int, float) and 0 <= value <= most)


def _restore_older(
    size: int, crop: int | None = None, random: bool = False, shorter: bool = False, bicubic: bool = False
) -> list[Callable]:
    """What the dict of an older checkpoint says. `random` was for training; evaluation leaves it out."""
    side = size if crop is None else crop
    numbers = type(size) is type(side) is int and 0 < side <= size <= LARGEST_SIDE
    if not (numbers and all(type(switch) is bool for switch in (random, shorter, bicubic))):
        raise ValueError(size, crop)
    mode = InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR
    resize = v2.Resize(size if shorter else (size, size), mode)
    return [resize, v2.CenterCrop(side)] if shorter or side < size else [resize]
