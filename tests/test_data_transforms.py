"""From a PIL image to pixels: the fixed part against torchvision and open_clip, the random part against plain loops."""

import numpy as np
import open_clip
import pytest
import torch
from make_data import make_folders, noise, write_image
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

from data.loaders import WHOLE
from data.transforms import Transform, restore_transform
from errors import UserError

# width and height: landscape, portrait, square, smaller than what they become, odd, thin, one pixel, as large already
SHAPES = [(60, 40), (40, 60), (50, 50), (9, 7), (41, 63), (90, 7), (3, 50), (1, 1), (32, 32), (32, 45), (47, 32)]
shapes = pytest.mark.parametrize("width, height", SHAPES)

LAST = 1 - 2**-53  # the largest uniform draw of double precision


def make_mixed(root):
    """The data set `mine`, 12 training and 6 test images of several sizes, landscape, portrait and square."""
    make_folders(root, counts={"train": 4, "test": 2})
    for number, path in enumerate(sorted((root / "mine").rglob("*.png"))):
        write_image(path, noise(number, *SHAPES[number % 5]))


def picture(width, height):
    return Image.fromarray(noise(width + height, width, height))


def assert_decoded(transform, image, expected):
    """`expected` (3,h,w) uint8."""
    pixels = transform.decode(image)
    assert pixels.dtype == np.uint8
    assert torch.equal(torch.from_numpy(pixels).permute(2, 0, 1), expected)


@pytest.mark.parametrize("size", [1, 7, 32, 50])
@shapes
@pytest.mark.parametrize("bicubic", [False, True])
def test_both_sides(width, height, size, bicubic):
    image, mode = picture(width, height), InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR
    expected = PILToTensor()(Resize((size, size), mode)(image))
    assert expected.shape == (3, size, size)
    assert_decoded(Transform(size, bicubic=bicubic), image, expected)
    assert_decoded(Transform(size, bicubic=bicubic, random=True, crop=1), image, expected)


@pytest.mark.parametrize("size", [1, 7, 32, 50])
@shapes
def test_both_sides_bilinear_is_pillows(width, height, size):
    image = picture(width, height)
    expected = np.array(image.resize((size, size), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(Transform(size).decode(image), expected)


@pytest.mark.parametrize("size", [16, 33, 224])
@pytest.mark.parametrize("width, height", [*SHAPES, (640, 480), (375, 500), (299, 451)])
def test_shorter_bicubic_is_clips(width, height, size):
    """Pixel for pixel what open_clip gives to its networks, before the normalisation."""
    image = picture(width, height)
    clip = Compose(open_clip.image_transform(size, is_train=False).transforms[:-1])
    pixels = torch.from_numpy(Transform(size, size, shorter=True, bicubic=True).decode(image))
    assert pixels.shape == (size, size, 3)
    assert torch.equal(pixels.permute(2, 0, 1).float() / 255, clip(image))
    np.testing.assert_array_equal(Transform(size, shorter=True, bicubic=True).decode(image), pixels)


@pytest.mark.parametrize("size, crop", [(32, 32), (32, 31), (32, 30), (32, 29), (32, 7), (33, 1), (8, 5)])
@pytest.mark.parametrize("shorter, bicubic", [(False, False), (True, False), (True, True)])
@shapes
def test_centre_crop(width, height, size, crop, shorter, bicubic):
    image, mode = picture(width, height), InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR
    torchvisions = Compose([Resize(size if shorter else (size, size), mode), CenterCrop(crop), PILToTensor()])
    assert_decoded(Transform(size, crop, shorter=shorter, bicubic=bicubic), image, torchvisions(image))


@pytest.mark.parametrize("bicubic", [False, True])
@shapes
def test_random_transform_decodes_all_that_crops_may_show(width, height, bicubic):
    image, mode = picture(width, height), InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR
    expected = PILToTensor()(Resize(32, mode)(image))
    assert min(expected.shape[1:]) == 32
    assert_decoded(Transform(32, 24, random=True, shorter=True, bicubic=bicubic), image, expected)


@pytest.mark.parametrize(
    "transform, side, decoded_side",
    [
        (Transform(8), 8, 8),
        (Transform(8, 6), 6, 6),
        (Transform(8, random=True), 8, 8),
        (Transform(8, 6, random=True), 6, 8),
        (Transform(8, shorter=True), 8, 8),
        (Transform(8, 6, shorter=True), 6, 6),
        (Transform(8, shorter=True, random=True), 8, None),
        (Transform(8, 6, shorter=True, random=True), 6, None),
    ],
)
def test_sides(transform, side, decoded_side):
    assert transform.side == side and transform.decoded_side == decoded_side
    pixels = transform.decode(picture(60, 40))
    assert pixels.shape == ((decoded_side, decoded_side, 3) if decoded_side else (8, 12, 3))
    assert transform.cut(pixels, (0.5, 0.5)).shape == (side, side, 3)
    if not transform.random:  # nothing is left to be cut
        np.testing.assert_array_equal(transform.cut(pixels, (LAST, LAST)), pixels)


def test_float_images():
    """Mode F becomes three equal channels, unchanged where the size is, and stays in [0,1] (bicubic overshoots)."""
    values = np.random.default_rng(0).random((9, 9), dtype=np.float32)
    pixels = Transform(9).decode(Image.fromarray(values))
    assert pixels.dtype == np.float32 and pixels.shape == (9, 9, 3)
    for channel in range(3):
        np.testing.assert_array_equal(pixels[..., channel], values)
    assert Transform(3).decode(Image.fromarray(np.full((9, 9), 0.25, np.float32))).tolist() == [[[0.25] * 3] * 3] * 3
    edge = Image.fromarray(np.repeat([[0.0], [1.0]], 20, axis=0).repeat(60, axis=1).astype(np.float32))
    pixels = Transform(80, 60, shorter=True, bicubic=True).decode(edge)
    assert pixels.dtype == np.float32 and pixels.shape == (60, 60, 3)
    expected = np.array(edge.resize((120, 80), Image.Resampling.BICUBIC))[10:70, 30:90]
    assert expected.min() < -0.01 and expected.max() > 1.01
    np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], 3, axis=2).clip(0, 1))


@pytest.mark.parametrize(
    "wrong",
    [
        *[{"size": 0}, {"size": -1}, {"size": 8.0}, {"size": "8"}, {"size": True}, {"size": None}],
        *[{"size": 8, "crop": crop} for crop in (0, -1, 9, 4.0, "4", True)],
        *[{"size": 8, switch: value} for switch in ("random", "shorter", "bicubic") for value in (1, "no", None)],
    ],
    ids=str,
)
def test_no_transform(wrong):
    with pytest.raises(ValueError, match="is no transform"):
        Transform(**wrong)
    with pytest.raises(UserError, match="has a size, and may have a crop"):
        restore_transform({"transform": wrong}, None)


@pytest.mark.parametrize("wrong", [None, 8, "8", [8], {}, {"crop": 4}, {"size": 8, "mean": 0}, {8: 8}], ids=str)
def test_checkpoint_without_a_transform(wrong):
    with pytest.raises(UserError, match="has a size, and may have a crop"):
        restore_transform({"transform": wrong}, 8)


def test_restored_transforms():
    assert restore_transform({}, 8) == Transform(8)
    assert restore_transform({"transform": {"size": 9}}, 8) == Transform(9)
    before = {"size": 9, "crop": None, "random": False}  # what checkpoints held before `shorter`
    assert restore_transform({"transform": before}, 8) == Transform(9)
    assert restore_transform({"transform": before | {"crop": 4}}, 8) == Transform(9, 4)
    full = {"size": 9, "crop": 4, "random": True, "shorter": True, "bicubic": True}
    assert restore_transform({"transform": full}, None) == Transform(9, 4, shorter=True, bicubic=True)
    with pytest.raises(UserError):
        restore_transform({}, None)


def marked(height: int, width: int) -> np.ndarray:
    """(height,width,3) uint8, whose channels are the row, the column and 7."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([rows, columns, np.full_like(rows, 7)], axis=2).astype(np.uint8)


@pytest.mark.parametrize("height, width, crop", [(6, 6, 4), (6, 8, 6), (9, 6, 5), (6, 6, 6)])
def test_all_places_are_equally_likely(height, width, crop):
    """As of torchvision's RandomCrop, which draws (y,x) uniformly from 0 to height - crop and width - crop."""
    transform, image = Transform(6, crop, random=True, shorter=True), marked(height, width)
    places = np.zeros((height - crop + 1, width - crop + 1))
    count = 400 * places.size
    generator = torch.Generator().manual_seed(0)
    for place in torch.rand(count, 2, dtype=torch.float64, generator=generator).tolist():
        cut = transform.cut(image, place)
        y, x = cut[0, 0, :2]
        np.testing.assert_array_equal(cut, image[y : y + crop, x : x + crop])
        assert cut.shape == (crop, crop, 3)
        places[y, x] += 1
    assert abs(places - 400).max() < 5 * 20  # the standard deviation is below 20


@pytest.mark.parametrize("spare", [0, 1, 2, 3, 32, 255, 99_999])
def test_first_and_last_place(spare):
    """Also where places are as many as no image has: no draw, rounded, leads outside."""
    image, transform = np.zeros((1, 1 + spare), np.bool_), Transform(1, random=True, shorter=True)
    image[0, [0, -1]] = True
    assert transform.cut(image, (0.0, 0.0)).tolist() == transform.cut(image, (LAST, LAST)).tolist() == [[True]]


def test_cut_is_a_view_of_any_channels():
    transform = Transform(6, 4, random=True)
    image = marked(6, 6)
    assert np.shares_memory(transform.cut(image, (0.4, 0.9)), image)
    np.testing.assert_array_equal(transform.cut(image[..., 0], (0.4, 0.9)), image[1:5, 2:6, 0])


def test_random_flips():
    """Half of the images, whole, and nothing else."""
    torch.manual_seed(0)
    image = torch.from_numpy(marked(5, 5)).permute(2, 0, 1)
    images = image.expand(1000, -1, -1, -1).clone()
    out = Transform(7, 5, random=True).on_batch(images, len(images), WHOLE)
    assert torch.equal(images, image.expand(1000, -1, -1, -1))  # the argument is left alone
    flipped = (out == image.flip(2)).flatten(1).all(1)
    kept = (out == image).flatten(1).all(1)
    assert (flipped ^ kept).all()
    assert 420 < flipped.sum() < 580  # standard deviation 16
    torch.manual_seed(0)
    assert torch.equal(Transform(7, 5, random=True).on_batch(images, len(images), WHOLE), out)
    torch.manual_seed(1)
    assert not torch.equal(Transform(7, 5, random=True).on_batch(images, len(images), WHOLE), out)
    torch.manual_seed(0)
    share = slice(1, None, 3)
    assert torch.equal(Transform(7, 5, random=True).on_batch(images[share], len(images), share), out[share])


@pytest.mark.parametrize("transform", [Transform(5), Transform(7, 5), Transform(5, shorter=True, bicubic=True)])
def test_fixed_transforms_draw_nothing(transform):
    images = torch.zeros(2, 3, 5, 5)
    state = torch.get_rng_state()
    assert transform.on_batch(images, len(images), WHOLE) is images
    assert torch.equal(torch.get_rng_state(), state)
