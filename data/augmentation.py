"""What --augment adds to the training transforms, as the last of them."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

STRENGTHS = 30  # the largest strength


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    """Each pixel (x,y) of the result comes from the matrix times (x,y,1): nearest pixel, black outside."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


def _factor(strength: int) -> float:
    """0.1 to 1.9, for the four operations that enhance."""
    return 0.1 + 1.8 * strength / STRENGTHS


def _whole(strength: int, most: int) -> int:
    return strength * most // STRENGTHS


# (image, strength from 0 to 30, sign) -> image. The strengths are those of ACAVP (NeurIPS 2025), which are narrower
# than those of torchvision's TrivialAugmentWide.
OPERATIONS: dict[str, Callable[[Image.Image, int, int], Image.Image]] = {
    "identity": lambda image, m, sign: image,
    "autocontrast": lambda image, m, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, m, sign: ImageOps.equalize(image),
    "rotate": lambda image, m, sign: image.rotate(sign * m),  # whole degrees
    "solarize": lambda image, m, sign: ImageOps.solarize(image, 256 - _whole(m, 256)),
    "colour": lambda image, m, sign: ImageEnhance.Color(image).enhance(_factor(m)),
    "contrast": lambda image, m, sign: ImageEnhance.Contrast(image).enhance(_factor(m)),
    "brightness": lambda image, m, sign: ImageEnhance.Brightness(image).enhance(_factor(m)),
    "sharpness": lambda image, m, sign: ImageEnhance.Sharpness(image).enhance(_factor(m)),
    "posterize": lambda image, m, sign: ImageOps.posterize(image, 8 - _whole(m, 4)),
    "shear_x": lambda image, m, sign: _affine(image, 1, sign * 0.3 * m / STRENGTHS, 0, 0, 1, 0),
    "shear_y": lambda image, m, sign: _affine(image, 1, 0, 0, sign * 0.3 * m / STRENGTHS, 1, 0),
    "translate_x": lambda image, m, sign: _affine(image, 1, 0, sign * _whole(m, 10), 0, 1, 0),
    "translate_y": lambda image, m, sign: _affine(image, 1, 0, 0, 0, 1, sign * _whole(m, 10)),
}


class TrivialAugment:
    """One operation at one strength, each drawn uniformly (Müller and Hutter, ICCV 2021; ACAVP's ranges).

    Images are (3,h,w) uint8; float32 in [0,1] is rounded to 256 levels first, because the operations are Pillow's.
    Three numbers are drawn from torch's CPU generator for each image: operation, strength and sign.
    """

    def __call__(self, image: Tensor) -> Tensor:
        operation = list(OPERATIONS.values())[int(torch.randint(len(OPERATIONS), ()))]
        strength, sign = int(torch.randint(STRENGTHS + 1, ())), 1 - 2 * int(torch.randint(2, ()))
        pixels = image if image.dtype == torch.uint8 else image.mul(255).round().byte()
        changed = operation(Image.fromarray(pixels.permute(1, 2, 0).numpy()), strength, sign)
        result = torch.from_numpy(np.array(changed)).permute(2, 0, 1)
        return result if image.dtype == torch.uint8 else result.to(image.dtype) / 255

    def __repr__(self) -> str:
        return "TrivialAugment()"


AUGMENTATIONS: dict[str, list[Callable]] = {"none": [], "trivial": [TrivialAugment()]}
