"""TrivialAugment: each operation against Pillow or torchvision, what is drawn, and that mappings do not see it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import load_script
from make_data import noise
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from data.augmentation import OPERATIONS, STRENGTHS, TrivialAugment
from data.catalog import find_dataset
from data.loaders import load_data
from data.transforms import vary

IMAGE = Image.fromarray(noise(3, 24, 20))
ENHANCE = {0: 0.1, 15: 1.0, 30: 1.9}
# operation, strength, sign -> the same by torchvision's functions
CASES = [
    ("identity", 30, -1, lambda i: i),
    ("autocontrast", 30, 1, F.autocontrast),
    ("equalize", 0, 1, F.equalize),
    ("rotate", 30, -1, lambda i: F.rotate(i, -30)),
    ("rotate", 7, 1, lambda i: F.rotate(i, 7)),
    ("solarize", 30, 1, lambda i: F.invert(i)),
    ("solarize", 15, 1, lambda i: F.solarize(i, 128)),
    ("solarize", 1, 1, lambda i: F.solarize(i, 248)),  # 256 / 30 is 8 in whole numbers
    ("posterize", 30, 1, lambda i: F.posterize(i, 4)),
    ("posterize", 29, 1, lambda i: F.posterize(i, 5)),
    *(("colour", m, 1, lambda i, f=f: F.adjust_saturation(i, f)) for m, f in ENHANCE.items()),
    *(("contrast", m, 1, lambda i, f=f: F.adjust_contrast(i, f)) for m, f in ENHANCE.items()),
    *(("brightness", m, 1, lambda i, f=f: F.adjust_brightness(i, f)) for m, f in ENHANCE.items()),
    *(("sharpness", m, 1, lambda i, f=f: F.adjust_sharpness(i, f)) for m, f in ENHANCE.items()),
]


@pytest.mark.parametrize(("name", "strength", "sign", "expected"), CASES)
def test_an_operation_is_torchvisions(name, strength, sign, expected):
    result = OPERATIONS[name](IMAGE, strength, sign)
    np.testing.assert_array_equal(np.asarray(result), np.asarray(expected(IMAGE)))


@pytest.mark.parametrize(
    "name", ["solarize", "posterize", "rotate", "shear_x", "shear_y", "translate_x", "translate_y"]
)
def test_strength_0_changes_nothing(name):
    np.testing.assert_array_equal(np.asarray(OPERATIONS[name](IMAGE, 0, -1)), np.asarray(IMAGE))


@pytest.mark.parametrize(("strength", "sign", "shift"), [(30, 1, 10), (30, -1, -10), (20, 1, 6), (2, 1, 0)])
def test_translations_by_whole_pixels_on_black(strength, sign, shift):
    """A shift above 0 goes to the left, or up."""
    pixels = np.asarray(IMAGE)
    for name, axis in (("translate_x", 1), ("translate_y", 0)):
        expected = np.roll(pixels, -shift, axis)
        black = [slice(None)] * 3
        black[axis] = slice(-shift, None) if shift > 0 else slice(0, -shift)
        if shift:
            expected[tuple(black)] = 0
        np.testing.assert_array_equal(np.asarray(OPERATIONS[name](IMAGE, strength, sign)), expected)


@pytest.mark.parametrize("name", ["shear_x", "shear_y"])
@pytest.mark.parametrize(("strength", "sign"), [(30, 1), (30, -1), (11, 1)])
def test_shears_by_hand(name, strength, sign):
    """The pixel (x,y) shows (x + s y, y), or (x, y + s x), the nearest one; s is up to 0.3."""
    pixels, s = np.asarray(IMAGE), sign * 0.3 * strength / 30
    expected = np.zeros_like(pixels)
    for row in range(pixels.shape[0]):
        for column in range(pixels.shape[1]):
            x, y = column + 0.5, row + 0.5
            x, y = (x + s * y, y) if name == "shear_x" else (x, y + s * x)
            i, j = int(np.floor(y)), int(np.floor(x))
            if 0 <= i < pixels.shape[0] and 0 <= j < pixels.shape[1]:
                expected[row, column] = pixels[i, j]
    result = np.asarray(OPERATIONS[name](IMAGE, strength, sign))
    assert (result == expected).all(2).mean() > 0.99  # Pillow counts in fixed point, so that ties may fall otherwise


def test_operations_strengths_and_signs_are_uniform(monkeypatch):
    seen = []
    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, lambda image, *how, name=name: seen.append((name, *how)) or image)
    image, augment = torch.zeros(3, 2, 2, dtype=torch.uint8), TrivialAugment()
    torch.manual_seed(0)
    for _ in range(6000):
        augment(image)
    names, strengths, signs = zip(*seen, strict=True)
    assert len(OPERATIONS) == 14
    for drawn, number in ((names, 14), (strengths, STRENGTHS + 1), (signs, 2)):
        counts = np.unique(np.array(drawn), return_counts=True)[1]
        assert len(counts) == number
        assert abs(counts - 6000 / number).max() < 5 * (6000 / number) ** 0.5
    assert (min(strengths), max(strengths)) == (0, 30)


def test_what_is_drawn_depends_on_the_seed_of_the_image_alone():
    image = torch.from_numpy(noise(0, 16, 12)).permute(2, 0, 1)
    results = [vary([TrivialAugment()], image.clone(), seed) for seed in (*range(20), *range(20))]
    assert all(map(torch.equal, results[:20], results[20:]))
    assert len({result.numpy().tobytes() for result in results}) > 10
    assert {(result.dtype, result.shape) for result in results} == {(torch.uint8, (3, 12, 16))}
    grey = [vary([TrivialAugment()], image.float() / 255, seed) for seed in range(20)]
    assert all(torch.equal(one, other.float() / 255) for one, other in zip(grey, results[:20], strict=True))


def data(augment: str, cache_folder, train):
    how = {"batch_size": 5, "device": torch.device("cpu"), "workers": 0, "cache_folder": cache_folder}
    run = SimpleNamespace(loading=lambda batch_size: how | {"augment": augment})
    return load_data(find_dataset("small").read(), run, train=train, eval=[v2.Resize((16, 16))])


def images(loader) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.cat([batch for batch, _ in loader])


@pytest.mark.parametrize("train", [[v2.Resize((16, 16))], [v2.Resize((20, 20)), v2.RandomCrop(16)]], ids=["", "crop"])
def test_training_images_alone_are_augmented_with_and_without_a_cache(train, small, tmp_path):
    plain, trivial, uncached = (
        data("none", tmp_path, train),
        data("trivial", tmp_path, train),
        data("trivial", None, train),
    )
    assert torch.equal(images(trivial.train), images(uncached.train))
    changed = (images(trivial.train) != images(plain.train)).flatten(1).any(1)
    assert changed.float().mean() > 0.5
    assert torch.equal(images(trivial.test), images(plain.test))
    assert torch.equal(images(trivial.train_as_eval), images(plain.train_as_eval))
    assert torch.equal(images(trivial.train.unaugmented), images(plain.train))
    assert trivial.train.unaugmented is trivial.train.unaugmented
    assert plain.train.unaugmented is plain.train


def test_a_mapping_is_made_of_images_that_are_not_augmented(small, words, monkeypatch):
    """The first map is the one without --augment, and the training is another."""
    module, script = load_script("experiments/cnn/ilm_vp"), "experiments/cnn/ilm_vp"
    make, counts, results = module.frequency_label_mapping, [], []
    monkeypatch.setattr(module, "frequency_label_mapping", lambda c, *more: counts.append(c) or make(c, *more))
    for augment in ("none", "trivial"):
        results.append(module.main([*words(script), "--epoch", "1", "--augment", augment]))
    assert torch.equal(counts[0], counts[1])
    assert results[0]["mapping"] == results[1]["mapping"]
