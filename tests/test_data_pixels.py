"""From image files to pixels: every colour mode; and the random part, the same wherever a loader has pixels from."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from test_data_loaders import EVP, RANDOM, everything, loaders, sources
from test_data_transforms import make_mixed
from torchvision.transforms import v2

from data.catalog import find_dataset
from data.sources import ImageArrays, ImageFiles
from data.splits import Splits, whole
from data.transforms import decode


def palette_image(transparency):
    image = Image.fromarray(np.array([[0, 1, 2, 1]], np.uint8), "L").convert("L")
    image = Image.frombytes("P", (4, 1), image.tobytes())
    image.putpalette([10, 20, 30, 40, 50, 60, 250, 0, 7])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def of_mode(mode, pixels, size=(2, 1)):
    image = Image.new(mode, size)
    image.putdata(pixels)
    return image


def sixteen_bits(*values):
    return Image.fromarray(np.array([values], np.uint16))


PALETTE = [[10, 20, 30], [40, 50, 60], [250, 0, 7], [40, 50, 60]]

# an image, the format it is saved in, the mode that Pillow opens it in, the RGB pixels of its only row
COLOUR_MODES = {
    "1": (of_mode("1", [255, 0]), "png", "1", [[255] * 3, [0] * 3]),
    "L": (of_mode("L", [7, 200]), "png", "L", [[7] * 3, [200] * 3]),
    "LA": (of_mode("LA", [(7, 0), (200, 128)]), "png", "LA", [[7] * 3, [200] * 3]),
    "P": (palette_image(None), "png", "P", PALETTE),
    "P, one transparent colour": (palette_image(1), "png", "P", PALETTE),
    "P, alpha for each colour": (palette_image(b"\x00\x80\xff"), "png", "P", PALETTE),
    "P, gif": (palette_image(2), "gif", "P", PALETTE),
    "RGB": (of_mode("RGB", [(1, 2, 3), (254, 0, 9)]), "png", "RGB", [[1, 2, 3], [254, 0, 9]]),
    "RGBA": (of_mode("RGBA", [(1, 2, 3, 0), (254, 0, 9, 77)]), "png", "RGBA", [[1, 2, 3], [254, 0, 9]]),
    # red = (255 - cyan) (255 - black) / 255, and so on
    "CMYK": (
        of_mode("CMYK", [(255, 0, 0, 0), (0, 51, 102, 55), (9, 9, 9, 255)], (3, 1)),
        "tif",
        "CMYK",
        [[0, 255, 255], [200, 160, 120], [0, 0, 0]],
    ),
    "I;16": (
        sixteen_bits(0, 255, 256, 32768, 65535),
        "png",
        "I;16 or I",
        [[0] * 3, [0] * 3, [1] * 3, [128] * 3, [255] * 3],
    ),
    "I;16, tif": (sixteen_bits(512, 65280), "tif", "I;16", [[2] * 3, [255] * 3]),
}


@pytest.mark.parametrize("image, ending, mode, expected", COLOUR_MODES.values(), ids=COLOUR_MODES)
def test_colour_modes(tmp_path, image, ending, mode, expected):
    path = tmp_path / f"image.{ending}"
    image.save(path)
    with Image.open(path) as saved:
        assert saved.mode in mode.split(" or ")  # Pillow 10 has I for a PNG; else the file does not test what it should
    with warnings.catch_warnings():  # Pillow warns where it drops a palette's alpha
        warnings.simplefilter("error")
        opened = ImageFiles(tmp_path, [path.name]).open(0)
    assert opened.mode == "RGB"
    assert np.asarray(opened).tolist() == [expected]


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (16, 16), (0, 51, 102, 55)).save(tmp_path / "image.jpg")
    pixels = np.asarray(ImageFiles(tmp_path, ["image.jpg"]).open(0)).astype(int)
    assert np.abs(pixels - [200, 160, 120]).max() <= 3


@sources
@pytest.mark.parametrize("transforms", [RANDOM, EVP], ids=["both sides", "shorter side"])
def test_random_part_is_that_of_a_plain_loop(data_path, cache, workers, transforms):
    """Order, crops and flips from the same draws: the order, then a seed for each image."""
    make_mixed(data_path)
    splits = find_dataset("mine").read()
    built = loaders(splits, data_path / ".cache" if cache else None, workers=workers, batch_size=5, train=transforms)
    torch.manual_seed(7)
    images, labels = everything(built.train)
    torch.manual_seed(7)
    order = torch.randperm(12)
    seeds = torch.randint(2**32, (12,)).tolist()
    assert labels.tolist() == splits.train.labels[order].tolist()
    fixed, per_epoch = transforms[:1], v2.Compose(transforms[1:])
    for image, position, seed in zip(images, order.tolist(), seeds, strict=True):
        pixels = torch.from_numpy(decode(fixed, splits.train.open(position))).permute(2, 0, 1)
        torch.manual_seed(seed)
        assert torch.equal(image, per_epoch(pixels) / 255)


def test_every_corner_is_drawn_equally_often():
    """Through the loader, as by torchvision's RandomCrop: 3 x 3 corners, each 400 times of 3600."""
    rows, columns = np.meshgrid(np.arange(6), np.arange(6), indexing="ij")
    one = np.stack([rows, columns, rows], axis=2).astype(np.uint8)
    split = whole(ImageArrays(np.repeat(one[None], 3600, axis=0)), np.zeros(3600))
    splits = Splits("numbered", ("a",), split, None, split)
    torch.manual_seed(0)
    images, _ = everything(loaders(splits, None, batch_size=128, train=[v2.RandomCrop(4)]).train)
    corners = (images[:, :2] * 255).round().int().amin((2, 3))
    counts = torch.bincount(corners[:, 0] * 3 + corners[:, 1], minlength=9)
    assert len(counts) == 9 and counts.min() > 306 and counts.max() < 494  # 5 standard deviations of 18.9


@sources
def test_float_images_are_cropped(tmp_path, cache, workers):
    """One channel, resized and cropped at random: what the plain steps give, three times."""
    values = np.random.default_rng(0).random((10, 9, 9), dtype=np.float32)
    split = whole(ImageArrays(values), np.zeros(10))
    splits = Splits("numbered", ("a",), split, None, split)
    train = [v2.Resize((9, 9)), v2.RandomCrop(6), v2.RandomHorizontalFlip()]
    images, _ = everything(loaders(splits, tmp_path if cache else None, workers=workers, train=train).train)
    assert images.shape == (10, 3, 6, 6) and images.dtype == torch.float32
    windows = np.lib.stride_tricks.sliding_window_view(values, (6, 6), axis=(1, 2)).reshape(-1, 6, 6)
    windows = torch.from_numpy(np.concatenate([windows, windows[..., ::-1]]))
    for image in images:
        assert (windows == image[:1]).all(2).all(1).sum() == 1
        assert torch.equal(image, image[:1].expand(3, -1, -1))
