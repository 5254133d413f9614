"""Crops and flips of a whole batch: torchvision's to the bit, from the same draws."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import Calls
from torchvision.transforms import v2

import data.fetching
from data.cache import RaggedPixels
from data.crops import FlatPixels, crop_and_flip
from data.fetching import fetcher
from data.loaders import build_loader
from data.sources import ImageArrays
from data.splits import whole
from data.transforms import vary

CROP, FLIP = v2.RandomCrop((5, 4)), v2.RandomHorizontalFlip(0.4)
GENERATOR = np.random.default_rng(0)


def ragged(*sizes: tuple[int, int]) -> RaggedPixels:
    sizes = np.array(sizes)
    return RaggedPixels(GENERATOR.integers(0, 256, 3 * sizes.prod(1).sum(), np.uint8), sizes)


PIXELS = {
    "one size": GENERATOR.integers(0, 256, (6, 8, 7, 3), np.uint8),
    "as large as the crop": GENERATOR.integers(0, 256, (6, 5, 4, 3), np.uint8),
    "as high as the crop": GENERATOR.integers(0, 256, (6, 5, 9, 3), np.uint8),
    "grey, float": GENERATOR.random((6, 8, 7), np.float32),
    "ragged": ragged((5, 9), (8, 4), (5, 4), (12, 6), (6, 12), (7, 7)),
}


@pytest.mark.parametrize("transforms", [[CROP], [FLIP], [CROP, FLIP]], ids=["crop", "flip", "both"])
@pytest.mark.parametrize("pixels", PIXELS.values(), ids=PIXELS)
def test_the_images_are_torchvisions(pixels, transforms):
    images = FlatPixels(pixels, torch.from_numpy)
    how = crop_and_flip(transforms, images.sizes)
    if how is None:
        assert isinstance(pixels, RaggedPixels) and transforms == [FLIP]
        return
    positions = torch.randint(6, (200,))
    seeds = torch.randint(2**32, (200,))
    with torch.random.fork_rng():
        expected = torch.stack(
            [
                vary(transforms, torch.from_numpy(pixels[position]).movedim(-1, 0).expand(3, -1, -1), seed)
                if pixels[position].ndim == 3
                else vary(transforms, torch.from_numpy(pixels[position])[None], seed)[0]
                for position, seed in zip(positions.tolist(), seeds.tolist(), strict=True)
            ]
        )
    expected = expected.movedim(1, -1) if expected.ndim == 4 else expected
    state = torch.get_rng_state()
    assert torch.equal(images.cut(positions, seeds, how), expected)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from torch's generator
    sizes, first = images.sizes[positions.numpy()], images._first[positions.numpy()]
    drawn = np.array(how.draw(seeds.tolist(), sizes.tolist()))
    side = how.side or tuple(images.sizes[0].tolist())
    assert torch.equal(images._gather(first, sizes[:, 1], drawn, side), expected)
    assert images.cut(positions[:0], seeds[:0], how).shape == (0, *expected.shape[1:])


def test_a_batch_is_one_index_whatever_its_size():
    """On the `meta` device there is nothing to read, as on CUDA nothing may be read within an epoch."""
    images, counts = FlatPixels(PIXELS["one size"], torch.from_numpy), []
    images.flat = images.flat.to("meta")
    for count in (2, 50):
        with Calls() as calls:
            rows = np.zeros(count, np.int64)
            out = images._gather(rows, rows + 7, np.zeros((count, 3), np.int64), (5, 4))
        assert out.shape == (count, 5, 4, 3) and calls.names.count("aten.index") == 1
        counts.append(len(calls.names))
    assert counts[0] == counts[1] <= 10


class OwnCrop(v2.RandomCrop):
    """Not torchvision's."""


@pytest.mark.parametrize(
    "transforms",
    [
        [v2.RandomCrop(4, padding=1)],
        [v2.RandomCrop(4, pad_if_needed=True)],
        [v2.RandomCrop(9)],
        [FLIP, CROP],
        [CROP, v2.ColorJitter(0.5)],
        [OwnCrop(4)],
    ],
    ids=str,
)
def test_other_transforms_are_left_to_torchvision(transforms):
    assert crop_and_flip(transforms, np.array([[8, 7]])) is None


@pytest.mark.parametrize(("name", "lie", "at_once"), [("cpu", "cpu", 1), ("cuda", "cuda", 1), ("cuda", "cpu", 0)])
def test_images_are_cut_where_the_network_computes(name, lie, at_once, tmp_path, monkeypatch):
    """Pixels that the GPU has no room for are cut by workers, which are many."""
    monkeypatch.setattr(data.fetching, "_on_device", lambda *_: SimpleNamespace(device=torch.device(lie)))
    monkeypatch.setattr(data.fetching, "_one_by_one", lambda *how: "one by one")
    split = whole(ImageArrays(PIXELS["one size"]), np.zeros(6, int))
    fetch = fetcher(split, [CROP], "x", torch.device(name), None, tmp_path, 0.3)
    assert (fetch != "one by one") == at_once


def test_with_and_without_a_cache_images_are_the_same():
    split = whole(ImageArrays(PIXELS["one size"]), np.zeros(6, int))
    how = {"batch_size": 4, "device": torch.device("cpu"), "workers": 0}
    epochs = []
    for cache_folder in (None, "anywhere"):
        loader = build_loader(split, [CROP, FLIP], "x", cache_folder=cache_folder, **how)
        torch.manual_seed(3)
        epochs.append([torch.cat([images for images, _ in loader]) for _ in range(2)])
    assert all(torch.equal(one, other) for one, other in zip(*epochs, strict=True))
    assert not torch.equal(*epochs[0])
