"""Data sets that come with Python packages. With them, everything can be tried without a download."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.image_file import to_rgb
from data.sources import ImageArrays
from data.splits import Splits, whole

PICTURES = (
    "astronaut brick cat coffee coins grass gravel hubble_deep_field immunohistochemistry stereo_motorcycle page"
    " retina moon rocket"
).split()
CROPS = {"train": 30, "val": 10, "test": 20}


@dataclass(frozen=True)
class Pictures:
    """Which picture is this crop from? Square crops of 14 photographs and scans of scikit-image.

    Each picture is cut in two across its longer side. One half is for training. The other is halved again, for
    validation and test. A crop lies in its own part, so no pixel is in two splits. Its side is 0.5 to 1 times the
    longest that fits.
    """

    seed: int = 0
    side: int = 128

    def read(self, data_path: Path, name: str) -> Splits:
        import skimage.data

        generator = np.random.default_rng(self.seed)
        crops: dict[str, list[np.ndarray]] = {part: [] for part in CROPS}
        for picture in PICTURES:
            pixels = getattr(skimage.data, picture)()
            image = to_rgb(Image.fromarray(pixels[0] if isinstance(pixels, tuple) else pixels))  # a stereo pair's left
            for part, region in regions(*image.size).items():
                boxes = [random_square(region, generator) for _ in range(CROPS[part])]
                crops[part] += [np.asarray(image.crop(box).resize((self.side,) * 2)) for box in boxes]
        splits = {
            part: whole(ImageArrays(np.stack(crops[part])), np.repeat(np.arange(len(PICTURES)), CROPS[part]))
            for part in CROPS
        }
        return Splits(name, tuple(PICTURES), **splits)


def regions(width: int, height: int) -> dict[str, tuple[int, int, int, int]]:
    """The boxes (left, top, right, bottom) in pixels of a picture's training, validation and test part."""
    train, rest = halves((0, 0, width, height))
    val, test = halves(rest)
    return {"train": train, "val": val, "test": test}


def halves(box: tuple[int, int, int, int]) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """Two halves of a box, cut across its longer side."""
    left, top, right, bottom = box
    if right - left >= bottom - top:
        middle = (left + right) // 2
        return (left, top, middle, bottom), (middle, top, right, bottom)
    middle = (top + bottom) // 2
    return (left, top, right, middle), (left, middle, right, bottom)


def random_square(box: tuple[int, int, int, int], generator: np.random.Generator) -> tuple[int, int, int, int]:
    """A random square in a box, in whole pixels. Its side is 0.5 to 1 times the longest that fits."""
    left, top, right, bottom = box
    fits = min(right - left, bottom - top)
    side = int(generator.integers(-(-fits // 2), fits + 1))
    x = int(generator.integers(left, right - side + 1))
    y = int(generator.integers(top, bottom - side + 1))
    return x, y, x + side, y + side


@dataclass(frozen=True)
class Digits:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, enlarged to 32 x 32; stratified 60/20/20.

    Args:
        change: changes each image, (h,w,3) uint8 -> (h,w,3) uint8. The splits do not depend on it.
    """

    seed: int = 0
    side: int = 32
    change: Callable[[np.ndarray], np.ndarray] = np.asarray

    def read(self, data_path: Path, name: str) -> Splits:
        from sklearn.datasets import load_digits  # slow to import; no other packaged data set needs it
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
        enlarged = (to_rgb(Image.fromarray(image).resize((self.side,) * 2)) for image in grey)
        images = np.stack([self.change(np.asarray(image)) for image in enlarged])
        labels = digits.target
        train, rest = train_test_split(np.arange(len(labels)), test_size=0.4, random_state=self.seed, stratify=labels)
        val, test = train_test_split(rest, test_size=0.5, random_state=self.seed, stratify=labels[rest])
        everything = whole(ImageArrays(images), labels)
        return Splits(
            name, tuple(map(str, range(10))), *(everything.take(np.sort(part)) for part in (train, val, test))
        )
