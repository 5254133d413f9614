"""From image files to pixels: colour modes, the fixed resize, and the random part on batches."""

import warnings

import numpy as np
import pytest
import torch
from make_data import noise
from PIL import Image
from torchvision.transforms import InterpolationMode, PILToTensor, Resize

from data.splits import ImageArrays, ImageFiles
from data.transforms import Transform


@pytest.mark.parametrize("size", [1, 7, 32, 50])
@pytest.mark.parametrize("width, height", [(24, 20), (32, 32), (50, 50), (7, 90), (200, 3), (1, 1)])
def test_decode_is_torchvisions_resize(width, height, size):
    image = Image.fromarray(noise(width + height, width, height))
    expected = PILToTensor()(Resize((size, size), InterpolationMode.BILINEAR)(image))
    pixels = Transform(size).decode(image)
    assert pixels.dtype == np.uint8 and pixels.shape == (size, size, 3)
    assert torch.equal(torch.from_numpy(pixels).permute(2, 0, 1), expected)


def test_decode_of_float_images():
    """Mode F becomes three equal channels, unchanged where the size is."""
    values = np.random.default_rng(0).random((9, 9), dtype=np.float32)
    pixels = Transform(9).decode(ImageArrays(values[None]).open(0))
    assert pixels.dtype == np.float32 and pixels.shape == (9, 9, 3)
    for channel in range(3):
        np.testing.assert_array_equal(pixels[..., channel], values)
    assert Transform(3).decode(Image.fromarray(np.full((9, 9), 0.25, np.float32))).tolist() == [[[0.25] * 3] * 3] * 3


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
    "I;16": (sixteen_bits(0, 255, 256, 32768, 65535), "png", "I;16", [[0] * 3, [0] * 3, [1] * 3, [128] * 3, [255] * 3]),
    "I;16, tif": (sixteen_bits(512, 65280), "tif", "I;16", [[2] * 3, [255] * 3]),
}


@pytest.mark.parametrize("image, ending, mode, expected", COLOUR_MODES.values(), ids=COLOUR_MODES)
def test_colour_modes(tmp_path, image, ending, mode, expected):
    path = tmp_path / f"image.{ending}"
    image.save(path)
    with Image.open(path) as saved:
        assert saved.mode == mode  # else the file does not test what it should
    with warnings.catch_warnings():  # Pillow warns where it drops a palette's alpha
        warnings.simplefilter("error")
        opened = ImageFiles(tmp_path, [path.name]).open(0)
    assert opened.mode == "RGB"
    assert np.asarray(opened).tolist() == [expected]


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (16, 16), (0, 51, 102, 55)).save(tmp_path / "image.jpg")
    pixels = np.asarray(ImageFiles(tmp_path, ["image.jpg"]).open(0)).astype(int)
    assert np.abs(pixels - [200, 160, 120]).max() <= 3


def marked(count: int, size: int) -> torch.Tensor:
    """Images whose channels are the row, the column, and the image's number."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    numbers = torch.arange(count)[:, None, None].expand(-1, size, size)
    return torch.stack([rows.expand_as(numbers), columns.expand_as(numbers), numbers], dim=1).to(torch.int32)


def test_random_crops_are_windows_or_their_mirrors():
    torch.manual_seed(0)
    images = marked(3600, 6)
    before = images.clone()
    crops = Transform(6, crop=4, random=True).on_batch(images)
    assert crops.shape == (3600, 3, 4, 4) and crops.dtype == images.dtype
    assert torch.equal(images, before)
    places = torch.zeros(2, 3, 3)  # mirrored, y, x
    for number, crop in enumerate(crops):
        y, x = int(crop[0].min()), int(crop[1].min())
        mirrored = bool(crop[1, 0, 0] > crop[1, 0, -1])
        window = images[number, :, y : y + 4, x : x + 4]
        assert torch.equal(crop, window.flip(2) if mirrored else window)
        places[int(mirrored), y, x] += 1
    # 18 equally likely outcomes, 200 expected of each, standard deviation 13.7
    assert places.min() > 140 and places.max() < 260


def test_random_flips_without_crop():
    torch.manual_seed(0)
    images = marked(1000, 5)
    flipped = 0
    for number, image in enumerate(Transform(5, random=True).on_batch(images)):
        is_flipped = bool(image[1, 0, 0] == 4)
        assert torch.equal(image, images[number].flip(2) if is_flipped else images[number])
        flipped += is_flipped
    assert 420 < flipped < 580


def test_random_part_is_seeded():
    images = marked(50, 9)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(Transform(9, crop=5, random=True).on_batch(images))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    "size, crop, start", [(7, 4, 1), (8, 4, 2), (256, 224, 16), (5, 5, 0), (5, None, 0), (6, 5, 0)]
)
def test_centre_crop(size, crop, start):
    images = marked(2, size)
    state = torch.get_rng_state()
    crops = Transform(size, crop=crop).on_batch(images)
    end = start + (crop or size)
    assert torch.equal(crops, images[:, :, start:end, start:end])
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn
