"""The data sets that come with Python packages: regions and crops of the pictures, the digits' split and changes."""

import numpy as np
import pytest
import skimage.data
from PIL import Image
from sklearn.datasets import load_digits

import data.packaged as packaged
from data.catalog import find_dataset
from data.packaged import PICTURES, Digits, Pictures, halves, random_square, regions

# By hand: the longer side is cut for the training half, then the longer side of what is left.
REGIONS = [
    ((100, 60), (0, 0, 50, 60), (50, 0, 100, 30), (50, 30, 100, 60)),  # 50 x 60 is left: cut its height
    ((60, 100), (0, 0, 60, 50), (0, 50, 30, 100), (30, 50, 60, 100)),
    ((101, 41), (0, 0, 50, 41), (50, 0, 75, 41), (75, 0, 101, 41)),  # 51 x 41 is left: cut its width again
    ((64, 64), (0, 0, 32, 64), (32, 0, 64, 32), (32, 32, 64, 64)),
    ((33, 201), (0, 0, 33, 100), (0, 100, 33, 150), (0, 150, 33, 201)),
]


@pytest.mark.parametrize("size, train, val, test", REGIONS)
def test_regions(size, train, val, test):
    assert regions(*size) == {"train": train, "val": val, "test": test}


def test_halves_of_a_box_away_from_the_corner():
    assert halves((10, 20, 31, 30)) == ((10, 20, 20, 30), (20, 20, 31, 30))
    assert halves((10, 20, 20, 41)) == ((10, 20, 20, 30), (10, 30, 20, 41))


def test_regions_of_every_picture_are_disjoint():
    for picture in PICTURES:
        pixels = getattr(skimage.data, picture)()
        height, width = np.shape(pixels[0] if isinstance(pixels, tuple) else pixels)[:2]
        covered = np.zeros((height, width), int)
        for left, top, right, bottom in regions(width, height).values():
            assert 0 <= left < right <= width and 0 <= top < bottom <= height
            covered[top:bottom, left:right] += 1
        assert (covered == 1).all(), picture  # every pixel in exactly one split


@pytest.mark.parametrize("box, sides", [((3, 5, 13, 12), range(4, 8)), ((0, 0, 6, 40), range(3, 7))])
def test_random_square(box, sides):
    """Whole pixels from half of what fits (7 fits: from 4) to all of it, anywhere in the box."""
    left, top, right, bottom = box
    generator = np.random.default_rng(0)
    places = {random_square(box, generator) for _ in range(8000)}
    expected = {
        (x, y, x + side, y + side)
        for side in sides
        for x in range(left, right - side + 1)
        for y in range(top, bottom - side + 1)
    }
    assert places == expected


@pytest.mark.parametrize("size", [(101, 60), (60, 100), (64, 64)])
def test_crops_come_from_their_region_only(tmp_path, monkeypatch, size):
    """Pictures whose regions are red, green and blue give crops of one colour."""
    width, height = size
    colours = {"train": (255, 0, 0), "val": (0, 255, 0), "test": (0, 0, 255)}
    picture = np.zeros((height, width, 3), np.uint8)
    if width >= height:
        picture[:, : width // 2] = colours["train"]
        picture[: height // 2, width // 2 :] = colours["val"]
        picture[height // 2 :, width // 2 :] = colours["test"]
    else:
        picture[: height // 2] = colours["train"]
        picture[height // 2 :, : width // 2] = colours["val"]
        picture[height // 2 :, width // 2 :] = colours["test"]
    for name in PICTURES:
        monkeypatch.setattr(skimage.data, name, lambda: picture)
    boxes = []

    def recorded(box, generator):
        boxes.append((box, random_square(box, generator)))
        return boxes[-1][1]

    monkeypatch.setattr(packaged, "random_square", recorded)
    splits = Pictures(side=16).read(tmp_path, "pictures")
    for part, colour in colours.items():
        crops = getattr(splits, part).source.array
        assert (crops == np.array(colour, np.uint8)).all(), part
    assert len(boxes) == 14 * (30 + 10 + 20)
    for (left, top, right, bottom), (x0, y0, x1, y1) in boxes:
        assert left <= x0 < x1 <= right and top <= y0 < y1 <= bottom and x1 - x0 == y1 - y0
        assert 0.5 <= (x1 - x0) / min(right - left, bottom - top) <= 1


def test_pictures_counts_and_labels(tmp_path):
    splits = find_dataset("pictures").read()
    assert splits.sizes == {"train": 420, "val": 140, "test": 280}
    for part, each in (("train", 30), ("val", 10), ("test", 20)):
        split = getattr(splits, part)
        assert split.labels.tolist() == [label for label in range(14) for _ in range(each)]
        assert split.open(0).size == (128, 128) and split.open(0).mode == "RGB"
    assert splits.class_names[5:8] == ("grass", "gravel", "hubble deep field")
    assert len(set(splits.class_names)) == 14


def test_pictures_are_crops_of_their_picture(monkeypatch, tmp_path):
    """Class names belong to the labels: the whole left half of the cat, resized, is what a full-size crop gives."""
    monkeypatch.setattr(packaged, "random_square", lambda box, generator: (box[0], box[1], box[0] + 99, box[1] + 99))
    splits = Pictures().read(tmp_path, "pictures")
    for name in ("cat", "moon", "stereo_motorcycle"):
        label = splits.class_names.index(name)
        pixels = getattr(skimage.data, name)()
        whole = Image.fromarray(pixels[0] if name == "stereo_motorcycle" else pixels).convert("RGB")
        expected = whole.crop((0, 0, 99, 99)).resize((128, 128))
        np.testing.assert_array_equal(splits.train.open(label * 30), expected)


def test_pictures_are_seeded(tmp_path):
    first, same, other = (Pictures(seed, side=24).read(tmp_path, "pictures") for seed in (0, 0, 1))
    for part in ("train", "val", "test"):
        one, two, three = (getattr(splits, part).source.array for splits in (first, same, other))
        np.testing.assert_array_equal(one, two)
        assert (one != three).any()


def test_digits(tmp_path):
    splits = find_dataset("digits").read()
    assert splits.class_names == tuple("0123456789")
    assert splits.sizes == {"train": 1078, "val": 359, "test": 360}
    digits = load_digits()
    of_class = np.bincount(digits.target)
    for part, fraction in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        split = getattr(splits, part)
        assert np.abs(np.bincount(split.labels) - fraction * of_class).max() <= 1  # stratified
        assert split.labels.tolist() == digits.target[split.indices].tolist()
    used = np.concatenate([splits.train.indices, splits.val.indices, splits.test.indices])
    assert sorted(used.tolist()) == list(range(1797))  # every digit in exactly one split
    image = splits.test.open(7)
    assert image.mode == "RGB" and image.size == (32, 32)
    grey = Image.fromarray(np.round(digits.images[splits.test.indices[7]] * 255 / 16).astype(np.uint8))
    np.testing.assert_array_equal(np.asarray(image)[..., 0], grey.resize((32, 32)))
    assert (np.asarray(image).min(), np.asarray(image).max()) == (0, 255)


def test_digits_are_seeded(tmp_path):
    first, same, other = (Digits(seed).read(tmp_path, "digits") for seed in (0, 0, 1))
    assert first.test.indices.tolist() == same.test.indices.tolist() != other.test.indices.tolist()


@pytest.mark.parametrize(
    "name, change",
    [
        ("digits_inverted", lambda pixels: 255 - pixels.astype(int)),
        ("digits_rotated", lambda pixels: pixels.transpose(1, 0, 2)[::-1]),  # the right column becomes the top row
    ],
    ids=["inverted", "rotated"],
)
def test_changed_digits(name, change):
    plain, changed = find_dataset("digits").read(), find_dataset(name).read()
    assert changed.class_names == plain.class_names
    for part in ("train", "val", "test"):
        one, other = getattr(plain, part), getattr(changed, part)
        assert other.indices.tolist() == one.indices.tolist()
        assert other.labels.tolist() == one.labels.tolist()
        for position in range(len(one)):
            image = other.open(position)
            assert image.mode == "RGB" and image.size == (32, 32)
            np.testing.assert_array_equal(np.asarray(image), change(np.asarray(one.open(position))))
