"""From a PIL image to pixels: the fixed part against torchvision and open_clip, the random part against torchvision."""

import json

import numpy as np
import open_clip
import pytest
import torch
from make_data import make_folders, noise, write_image
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize, v2

from data.transforms import (
    decode,
    describe_transforms,
    keeps_size,
    restore_transforms,
    split_transforms,
    vary,
)
from errors import UserError

BILINEAR, BICUBIC = InterpolationMode.BILINEAR, InterpolationMode.BICUBIC

# width and height: landscape, portrait, square, smaller than what they become, odd, thin, one pixel, as large already
SHAPES = [(60, 40), (40, 60), (50, 50), (9, 7), (41, 63), (90, 7), (3, 50), (1, 1), (32, 32), (32, 45), (47, 32)]
shapes = pytest.mark.parametrize("width, height", SHAPES)

modes = pytest.mark.parametrize("mode", [BILINEAR, BICUBIC])


def make_mixed(root):
    """The data set `mine`, 12 training and 6 test images of several sizes, landscape, portrait and square."""
    make_folders(root, counts={"train": 4, "test": 2})
    for number, path in enumerate(sorted((root / "mine").rglob("*.png"))):
        write_image(path, noise(number, *SHAPES[number % 5]))


def picture(width, height):
    return Image.fromarray(noise(width + height, width, height))


def assert_decoded(transforms, image, expected):
    """`expected` (3,h,w) uint8."""
    pixels = decode(transforms, image)
    assert pixels.dtype == np.uint8
    assert torch.equal(torch.from_numpy(pixels).permute(2, 0, 1), expected)


@pytest.mark.parametrize("size", [1, 7, 32, 50])
@shapes
@modes
def test_both_sides(width, height, size, mode):
    image = picture(width, height)
    expected = PILToTensor()(Resize((size, size), mode)(image))
    assert expected.shape == (3, size, size)
    assert_decoded([v2.Resize((size, size), mode)], image, expected)


@pytest.mark.parametrize("size", [1, 7, 32, 50])
@shapes
def test_both_sides_bilinear_is_pillows(width, height, size):
    image = picture(width, height)
    expected = np.array(image.resize((size, size), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(decode([v2.Resize((size, size))], image), expected)


@pytest.mark.parametrize("size", [16, 33, 224])
@pytest.mark.parametrize("width, height", [*SHAPES, (640, 480), (375, 500), (299, 451)])
def test_shorter_bicubic_is_clips(width, height, size):
    """Pixel for pixel what open_clip gives to its networks, before the normalisation."""
    image = picture(width, height)
    clip = Compose(open_clip.image_transform(size, is_train=False).transforms[:-1])
    pixels = torch.from_numpy(decode([v2.Resize(size, BICUBIC), v2.CenterCrop(size)], image))
    assert pixels.shape == (size, size, 3)
    assert torch.equal(pixels.permute(2, 0, 1).float() / 255, clip(image))


@pytest.mark.parametrize("size, crop", [(32, 32), (32, 31), (32, 30), (32, 29), (32, 7), (33, 1), (8, 5)])
@pytest.mark.parametrize("shorter", [True, False])
@modes
@shapes
def test_centre_crop(width, height, size, crop, shorter, mode):
    image, size = picture(width, height), size if shorter else (size, size)
    torchvisions = Compose([Resize(size, mode), CenterCrop(crop), PILToTensor()])
    assert_decoded([v2.Resize(size, mode), v2.CenterCrop(crop)], image, torchvisions(image))


@modes
@shapes
def test_random_transform_decodes_all_that_crops_may_show(width, height, mode):
    image = picture(width, height)
    fixed, per_epoch = split_transforms([v2.Resize(32, mode), v2.RandomCrop(24)])
    expected = PILToTensor()(Resize(32, mode)(image))
    assert min(expected.shape[1:]) == 32 and len(per_epoch) == 1
    assert_decoded(fixed, image, expected)


def own(image):
    return image


class OwnResize(v2.Resize):
    """A class that may do anything."""


RESIZE, CROP, PAD, GREY = v2.Resize(8), v2.CenterCrop(6), v2.Pad(2), v2.Grayscale(3)
FLIP, JITTER = v2.RandomHorizontalFlip(), v2.ColorJitter(0.5)


@pytest.mark.parametrize(
    "transforms, number",
    [
        ([], 0),
        ([RESIZE], 1),
        ([RESIZE, CROP, PAD, GREY], 4),
        ([RESIZE, FLIP], 1),
        ([FLIP, RESIZE], 0),
        ([RESIZE, JITTER, CROP, FLIP], 1),  # all from the first other one on
        ([RESIZE, own, CROP], 1),
        ([OwnResize(8)], 0),
        ([v2.RandomResizedCrop(8)], 0),
        ([RESIZE, torch.nn.Identity()], 1),
    ],
)
def test_fixed_part(transforms, number):
    assert split_transforms(transforms) == (transforms[:number], transforms[number:])


def test_pad_and_grey():
    image = picture(9, 7)
    expected = PILToTensor()(image.convert("L").convert("RGB"))
    assert_decoded([v2.Grayscale()], image, expected)
    assert_decoded([v2.Grayscale(3), v2.Pad((1, 2), fill=5)], image, v2.functional.pad(expected, [1, 2], fill=5))


@pytest.mark.parametrize(
    "fixed, size, kept",
    [
        ([], (9, 8), True),
        ([v2.Resize((8, 8))], (8, 8), True),
        ([v2.Resize(8)], (8, 8), True),
        ([v2.Resize(8), v2.CenterCrop(8)], (8, 8), True),
        ([v2.Resize((9, 8))], (9, 8), True),
        ([v2.Resize((8, 9))], (9, 8), False),
        ([v2.Resize(8)], (9, 8), False),
        ([v2.Resize(8)], (10, 10), False),
        ([v2.Resize((16, 16)), v2.Resize((8, 8))], (8, 8), False),
        ([v2.CenterCrop(6)], (8, 8), False),
        ([v2.Pad(0)], (8, 8), False),
        ([v2.Grayscale()], (8, 8), False),
    ],
)
def test_what_leaves_images_as_they_are(fixed, size, kept):
    assert keeps_size(fixed, *size) == kept
    image = picture(*size[::-1])
    if kept:
        np.testing.assert_array_equal(decode(fixed, image), np.asarray(image))


def test_float_images():
    """Mode F becomes three equal channels, unchanged if the size is, and stays in [0,1] (bicubic overshoots)."""
    values = np.random.default_rng(0).random((9, 9), dtype=np.float32)
    for transforms in ([v2.Resize((9, 9))], [], [v2.Grayscale(3)]):
        pixels = decode(transforms, Image.fromarray(values))
        assert pixels.dtype == np.float32 and pixels.shape == (9, 9, 3)
        for channel in range(3):
            np.testing.assert_array_equal(pixels[..., channel], values)
    grey = Image.fromarray(np.full((9, 9), 0.25, np.float32))
    assert decode([v2.Resize((3, 3))], grey).tolist() == [[[0.25] * 3] * 3] * 3
    edge = Image.fromarray(np.repeat([[0.0], [1.0]], 20, axis=0).repeat(60, axis=1).astype(np.float32))
    pixels = decode([v2.Resize(80, BICUBIC), v2.CenterCrop(60)], edge)
    assert pixels.dtype == np.float32 and pixels.shape == (60, 60, 3)
    expected = np.array(edge.resize((120, 80), Image.Resampling.BICUBIC))[10:70, 30:90]
    assert expected.min() < -0.01 and expected.max() > 1.01
    np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], 3, axis=2).clip(0, 1))


WRONG = [
    *[{"size": size} for size in (0, -1, 8.0, "8", True, None, 10**9)],
    *[{"size": 8, "crop": crop} for crop in (0, -1, 9, 4.0, "4", True)],
    *[{"size": 8, switch: value} for switch in ("random", "shorter", "bicubic") for value in (1, "no", None)],
    *[None, 8, "8", "", (), {}, {"crop": 4}, {"size": 8, "mean": 0}, {8: 8}, torch.ones(3), {"size": torch.ones(3)}],
    *[[8], ["Resize"], [None], [[]], [["Resize"]], [["Resize", 8]], [["Resize", [8]]], [[["Resize"], {"size": 8}]]],
    *[[["Resize", {"size": size}]] for size in (0, -1, [0], [], [8, 8, 8], [[8]], 10**9, True, "8", 8.5, None)],
    *[
        [["Resize", {"size": [8], argument: "x"}]]
        for argument in ("interpolation", "max_size", "antialias", "a", "self")
    ],
    [["Resize", {"size": [8], "max_size": 8}]],
    [["Resize", {"size": [8], 8: 8}]],
    [["Resize", {"size": torch.ones(3)}]],
    [["CenterCrop", {"size": 10**9}]],
    [["Pad", {"padding": -1}]],
    [["Pad", {"padding": 513}]],
    [["CenterCrop", {"size": 8}]] * 9,
    [["Pad", {"padding": [1, 2, 3]}]],
    [["Pad", {"padding": 1, "padding_mode": "x"}]],
    [["Grayscale", {"num_output_channels": 2}]],
    *[[[name, {}]] for name in ("Lambda", "ToImage", "RandomCrop", "ColorJitter", "eval", "os.system", "__class__")],
    [["Lambda", {"lambd": "print"}]],
    [["RandomCrop", {"size": 8}]],
    [["Resize", {"size": [8]}], ["ColorJitter", "ColorJitter()"]],
    [["Resize", {"size": [8]}, {}]],
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_no_checkpoint_should_hold(wrong):
    with pytest.raises(UserError, match=r"`transform` is a list such as .* has a size, and may have a crop"):
        restore_transforms({"transform": wrong}, None)


def test_huge_content_is_told_briefly():
    with pytest.raises(UserError) as error:
        restore_transforms({"transform": ["x" * 10**6]}, None)
    assert len(str(error.value)) < 1000


FIXED_LISTS = [
    [],
    [v2.Resize((128, 128))],
    [v2.Resize(164, BICUBIC), v2.CenterCrop(164)],
    [v2.Resize([7], v2.InterpolationMode.NEAREST), v2.CenterCrop((6, 5))],
    [v2.Resize(8, 2, max_size=9)],
    [v2.Pad([1, 2, 3, 4], fill=(7, 8, 9)), v2.Pad(2, padding_mode="reflect"), v2.Grayscale(3), v2.Grayscale()],
]


@pytest.mark.parametrize("transforms", FIXED_LISTS, ids=str)
def test_restored_transforms_are_those_described(transforms):
    described = describe_transforms(transforms)
    restored = restore_transforms({"transform": json.loads(json.dumps(described))}, None)
    assert [type(each) for each in restored] == [type(each) for each in transforms]
    assert describe_transforms(restored) == described
    image = picture(60, 40)
    np.testing.assert_array_equal(decode(restored, image), decode(transforms, image))


def test_a_restored_interpolation_is_no_text():
    """torchvision 0.19 refuses a text when the image is resized."""
    (restored,) = restore_transforms({"transform": [["Resize", {"size": [8, 8], "interpolation": "bicubic"}]]}, None)
    assert restored.interpolation is BICUBIC


def test_description():
    assert describe_transforms([v2.Resize((8, 8)), v2.CenterCrop(6)]) == [
        ["Resize", {"size": [8, 8], "interpolation": "bilinear", "max_size": None}],
        ["CenterCrop", {"size": [6, 6]}],
    ]
    (name, arguments), (own_name, own_arguments) = describe_transforms([v2.RandomCrop(8), own])
    assert name == "RandomCrop" and "size=(8, 8)" in arguments
    assert own_name == "function" and "own" in own_arguments


@pytest.mark.parametrize(
    "older, expected",
    [
        ({"size": 9}, [v2.Resize((9, 9))]),
        ({"size": 9, "crop": None, "random": False}, [v2.Resize((9, 9))]),
        ({"size": 9, "crop": 4, "random": False}, [v2.Resize((9, 9)), v2.CenterCrop(4)]),
        ({"size": 9, "shorter": True, "bicubic": True}, [v2.Resize(9, BICUBIC), v2.CenterCrop(9)]),
        (
            {"size": 9, "crop": 4, "random": True, "shorter": True, "bicubic": True},  # evaluation is never random
            [v2.Resize(9, BICUBIC), v2.CenterCrop(4)],
        ),
    ],
)
def test_checkpoints_of_the_version_before(older, expected):
    assert describe_transforms(restore_transforms({"transform": older}, None)) == describe_transforms(expected)


def test_checkpoint_without_a_transform():
    assert restore_transforms({"a": 1}, lambda setup: [setup]) == [{"a": 1}]


def marked(height: int, width: int) -> np.ndarray:
    """(height,width,3) uint8, whose channels are the row, the column and 7."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([rows, columns, np.full_like(rows, 7)], axis=2).astype(np.uint8)


def tensor(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(marked(height, width)).permute(2, 0, 1)


@pytest.mark.parametrize("height, width, crop", [(6, 6, 4), (6, 8, 6), (9, 6, 5), (6, 6, 6)])
def test_all_corners_are_equally_likely(height, width, crop):
    """Over seeds as an epoch draws them: RandomCrop draws (y,x) uniformly from 0 to height - crop, width - crop."""
    image, transforms = tensor(height, width), [v2.RandomCrop(crop)]
    times = np.zeros((height - crop + 1, width - crop + 1))
    for seed in torch.randint(2**32, (400 * times.size,), generator=torch.Generator().manual_seed(0)).tolist():
        cut = vary(transforms, image, seed)
        y, x = cut[:2, 0, 0].tolist()
        assert cut.shape == (3, crop, crop) and torch.equal(cut, image[:, y : y + crop, x : x + crop])
        times[y, x] += 1
    assert abs(times - 400).max() < 5 * 20  # the standard deviation is below 20


def test_random_flips():
    """Half of the images, whole, and nothing else."""
    image = tensor(5, 5)
    seeds = torch.randint(2**32, (1000,), generator=torch.Generator().manual_seed(0)).tolist()
    out = torch.stack([vary([v2.RandomHorizontalFlip()], image, seed) for seed in seeds])
    assert torch.equal(image, tensor(5, 5))
    flipped = (out == image.flip(2)).flatten(1).all(1)
    kept = (out == image).flatten(1).all(1)
    assert (flipped ^ kept).all()
    assert 420 < flipped.sum() < 580  # standard deviation 16


AUGMENTATIONS = {
    "crop and flip": [v2.RandomCrop(6), v2.RandomHorizontalFlip()],
    "ColorJitter": [v2.ColorJitter(0.5, 0.5, 0.5, 0.2)],
    "TrivialAugmentWide": [v2.TrivialAugmentWide()],
    "RandomResizedCrop": [v2.RandomResizedCrop(7)],
}


@pytest.mark.parametrize("transforms", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_seeds(transforms):
    """The same as of torchvision after torch.manual_seed."""
    image = torch.from_numpy(noise(0, 16, 12)).permute(2, 0, 1)
    results = [vary(transforms, image.clone(), seed) for seed in (*range(12), *range(12))]
    for seed, (one, other) in enumerate(zip(results[:12], results[12:], strict=True)):
        torch.manual_seed(seed)
        assert torch.equal(one, v2.Compose(transforms)(image)) and torch.equal(one, other)
    assert len({result.numpy().tobytes() for result in results}) > 5
