"""Loaders: values, labels, order, and that pixels are the same wherever they come from."""

import numpy as np
import pytest
import torch
from make_data import make_abide, make_coop, make_folders, make_lmdb
from test_data_transforms import make_mixed

from data.cache import RaggedPixels
from data.catalog import find_dataset
from data.loaders import WHOLE, Loader, _gather, _on_device, build_loader, build_loaders
from data.splits import ImageArrays, Splits, whole
from data.transforms import Transform

CPU = torch.device("cpu")
FIXED = Transform(16)
RANDOM = Transform(16, crop=12, random=True)
EVP = Transform(16, random=True, shorter=True, bicubic=True)


def loaders(splits, cache_folder, *, workers=0, batch_size=4, train=FIXED, evaluation=FIXED):
    return build_loaders(
        splits,
        train_transform=train,
        eval_transform=evaluation,
        batch_size=batch_size,
        device=CPU,
        workers=workers,
        cache_folder=cache_folder,
    )


def everything(loader):
    """All images and labels of one pass."""
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def numbered(count: int, size: int = 4) -> Splits:
    """Images of one grey value, their number, and labels (number % 3)."""
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(size, 1).repeat(size, 2).repeat(3, 3)
    split = whole(ImageArrays(pixels), np.arange(count) % 3)
    return Splits("numbered", ("a", "b", "c"), split, None, split)


def numbers(images):
    return (images[:, 0, 0, 0] * 255).round().int().tolist()


sources = pytest.mark.parametrize("cache, workers", [(True, 0), (False, 0), (False, 2)])


@sources
@pytest.mark.parametrize("make", [make_folders, make_lmdb, make_coop])
def test_values_and_labels(data_path, make, cache, workers):
    """Values are uint8 / 255 exactly, in float32; each image has its label; evaluation is in the split's order."""
    name = "mine" if make is make_folders else "dtd"
    make(data_path, name)
    splits = find_dataset(name).read()
    built = loaders(splits, data_path / ".cache" if cache else None, workers=workers)
    for part in ("val", "test"):
        split = getattr(splits, part)
        images, labels = everything(getattr(built, part))
        assert images.dtype == torch.float32 and labels.dtype == torch.int64
        expected = [Transform(16).decode(split.open(position)) for position in range(len(split))]
        expected = np.stack(expected).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(images.numpy(), expected)
        assert labels.tolist() == split.labels.tolist()


@sources
def test_training_images_keep_their_labels(tmp_path, cache, workers):
    built = loaders(numbered(50), tmp_path if cache else None, workers=workers, train=Transform(4))
    for _ in range(2):
        images, labels = everything(built.train)
        assert sorted(numbers(images)) == list(range(50))  # a permutation
        assert numbers(images) != list(range(50))
        assert [number % 3 for number in numbers(images)] == labels.tolist()


@pytest.mark.parametrize("batch_size, sizes", [(4, [4, 4, 2]), (5, [5, 5]), (10, [10]), (64, [10]), (1, [1] * 10)])
def test_batches(tmp_path, batch_size, sizes):
    loader = loaders(numbered(10), tmp_path, batch_size=batch_size).test
    assert [len(labels) for _, labels in loader] == sizes
    assert len(loader) == len(sizes)


@sources
def test_shuffling_is_seeded(tmp_path, cache, workers):
    built = loaders(numbered(50), tmp_path if cache else None, workers=workers)
    orders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        orders.append([numbers(everything(built.train)[0]) for _ in range(2)])
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] and orders[0][0] != orders[2][0]
    assert orders[0][0] != orders[0][1]  # each epoch anew


TRANSFORMS = {
    "fixed": FIXED,
    "random": RANDOM,
    "flips only": Transform(16, random=True),
    "clip": Transform(16, shorter=True, bicubic=True),
    "evp": EVP,
    "evp, smaller crop": Transform(16, crop=9, random=True, shorter=True, bicubic=True),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_cached_pixels_are_those_decoded_every_epoch(data_path, workers, transform):
    # DataLoader draws a base seed for every pass: taken from torch's generator, it would change the crops and all later
    # orders, so that the same seed would give another run without a cache than with it
    make_mixed(data_path)
    splits = find_dataset("mine").read()
    epochs = []
    for cache in (data_path / ".cache", data_path / ".cache", None):  # made, found, none
        built = loaders(splits, cache, train=transform, workers=workers)
        torch.manual_seed(5)
        epochs.append([everything(loader) for loader in (built.train, built.test, built.train)])
    for (images, labels), *others in zip(*epochs, strict=True):
        for other_images, other_labels in others:
            assert torch.equal(labels, other_labels)
            assert torch.equal(images, other_images)
    (first, _), _, (again, _) = epochs[0]
    assert first.shape == (12, 3, transform.side, transform.side) and not torch.equal(first, again)


def test_lmdb_is_read_by_several_processes(data_path):
    make_lmdb(data_path)
    built = loaders(find_dataset("dtd").read(), None, workers=2, batch_size=2)
    first, second = everything(built.test), everything(built.test)
    assert torch.equal(first[0], second[0]) and len(first[1]) == 6


@pytest.mark.parametrize("cache", [True, False])
def test_float_images(data_path, cache):
    """ABIDE's are passed on unchanged, three equal channels."""
    make_abide(data_path)
    splits = find_dataset("abide").read()
    transform = Transform(200)
    built = loaders(splits, data_path / ".cache" if cache else None, train=transform, evaluation=transform)
    images, labels = everything(built.test)
    assert images.shape == (3, 3, 200, 200) and images.dtype == torch.float32
    assert labels.tolist() == splits.test.labels.tolist()
    for position in range(3):
        for channel in range(3):
            np.testing.assert_array_equal(images[position, channel], np.asarray(splits.test.open(position)))


def test_arrays_of_another_size_are_resized(tmp_path):
    splits = find_dataset("digits").read()
    images, labels = everything(loaders(splits, tmp_path, batch_size=100, evaluation=Transform(20)).test)
    assert images.shape == (360, 3, 20, 20)
    expected = torch.from_numpy(Transform(20).decode(splits.test.open(17))).permute(2, 0, 1)
    assert torch.equal(images[17], expected / 255) and labels[17] == splits.test.labels[17]


@pytest.mark.parametrize("transform", [Transform(8), Transform(8, random=True), Transform(8, shorter=True)])
@pytest.mark.parametrize("size", [8, 10])
def test_arrays_of_the_right_size_are_not_decoded(tmp_path, monkeypatch, transform, size):
    calls = []
    decode = Transform.decode
    monkeypatch.setattr(Transform, "decode", lambda self, image: calls.append(1) or decode(self, image))
    built = loaders(numbered(20, size), tmp_path, train=transform, evaluation=Transform(8, crop=6, bicubic=True))
    images, _ = everything(built.train)
    assert images.shape == (20, 3, 8, 8) and sorted(numbers(images)) == list(range(20))
    assert len(calls) == (0 if size == 8 else 20)
    images, _ = everything(built.test)  # a crop is part of decoding
    assert images.shape == (20, 3, 6, 6) and numbers(images) == list(range(20))


def test_train_and_eval_transforms_are_not_mixed_up(tmp_path):
    built = loaders(numbered(6, 8), tmp_path, train=Transform(8, crop=5, random=True), evaluation=Transform(8, crop=6))
    assert next(iter(built.train))[0].shape == (4, 3, 5, 5)
    assert next(iter(built.test))[0].shape == (4, 3, 6, 6)


def test_examples_are_from_all_over_the_split(tmp_path):
    built = loaders(numbered(9), tmp_path)
    assert numbers(built.train.examples) == numbers(built.test.examples) == [0, 2, 5, 8]
    assert numbers(loaders(numbered(3), tmp_path).test.examples) == [0, 1, 2]
    assert built.train.examples.shape == (4, 3, 16, 16)
    assert len(built.train) == 3 and len(everything(built.train)[1]) == 9  # the loader is as it was


@sources
@pytest.mark.parametrize("transform", [FIXED, RANDOM, EVP])
@pytest.mark.parametrize("processes", [2, 3, 5])
def test_shares_make_up_the_batches(data_path, transform, cache, workers, processes):
    """What several processes see of a batch is, together, what one would see: each image once, cut and flipped alike.

    Of the last batch, which is smaller, some see nothing.
    """
    make_folders(data_path, "mine", counts={"train": 5, "val": 0, "test": 2}, classes=("a", "b"))
    split = find_dataset("mine").read().train
    how = {"batch_size": 4, "device": CPU, "workers": workers, "shuffle": True}
    how["cache_folder"] = data_path / ".cache" if cache else None

    def batches(share):
        loader = build_loader(split, transform, "mine train", share=share, **how)
        torch.manual_seed(3)
        return list(loader)

    whole = batches(WHOLE)
    assert [len(labels) for _, labels in whole] == [4, 4, 2]
    for first in range(processes):
        share = slice(first, None, processes)
        for (images, labels), (all_images, all_labels) in zip(batches(share), whole, strict=True):
            assert torch.equal(images, all_images[share]) and torch.equal(labels, all_labels[share])
            assert images.shape[1:] == all_images.shape[1:]


def test_map(tmp_path):
    built = loaders(numbered(4), tmp_path)
    assert built.map(lambda loader, part: (part, len(loader))).train == ("train", 1)
    assert built.map(lambda loader, part: (part, len(loader))).val is None


class Encoder(torch.nn.Module):
    """Five numbers of an image; counts what it has seen."""

    def __init__(self):
        super().__init__()
        self.factor, self.seen = torch.nn.Parameter(torch.tensor(2.0)), 0

    def forward(self, images):
        self.seen += len(images)
        return images.flatten(1)[:, :5] * self.factor + images.mean(dim=(1, 2, 3))[:, None]


@pytest.mark.parametrize("part", ["train", "test"])
def test_encoded(tmp_path, part):
    """Every pass gives what encoding that pass's batches gives, though each image is encoded only once."""
    loader = getattr(loaders(numbered(30), tmp_path, batch_size=7), part)
    encoder = Encoder()
    shown = []
    encoded = loader.encoded(encoder, lambda it: (shown.append(len(it)), it)[1])
    assert encoder.seen == 30 and shown == [5]
    for seed in (3, 4):
        torch.manual_seed(seed)
        expected = [(Encoder()(images), labels) for images, labels in loader]
        torch.manual_seed(seed)
        for (features, labels), (other, other_labels) in zip(encoded, expected, strict=True):
            torch.testing.assert_close(features, other, rtol=0, atol=0)
            assert torch.equal(labels, other_labels) and not features.requires_grad
    assert encoder.seen == 30 and len(encoded) == 5


@pytest.mark.parametrize("transform", [Transform(6), Transform(6, random=True)], ids=["fixed", "flips only"])
def test_arrays_of_one_channel_travel_as_one(transform):
    """Pinned memory cannot hold a tensor whose channels are one and the same; the loader spreads them on the device."""
    array = np.random.default_rng(0).random((5, 6, 6), dtype=np.float32)
    fetched = next(_gather(torch.from_numpy(array), transform, CPU)([torch.tensor([3, 1])], WHOLE))
    assert fetched.shape == (2, 1, 6, 6)
    assert 0 not in fetched.stride()
    loader = Loader(
        np.arange(5),
        _gather(torch.from_numpy(array), transform, CPU),
        lambda x, *_: x,
        batch_size=5,
        shuffle=False,
        device=CPU,
    )
    images, _ = next(iter(loader))
    assert torch.equal(images, torch.from_numpy(array)[:, None].expand(-1, 3, -1, -1))


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_pixels_stay_in_the_gpus_memory_where_they_fit(fraction, monkeypatch):
    """Asked of the decision alone: there is no GPU here."""
    moved = []
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (2 * 5 * 6 * 6 * 3, 10**9))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: moved.append(self.nbytes) or self)
    pixels = np.zeros((5, 6, 6, 3), np.uint8)
    ragged = RaggedPixels(pixels.reshape(-1), np.full((5, 2), 6))
    for kind in (pixels, ragged):
        _on_device(kind, torch.device("cuda"), fraction)
        _on_device(kind, CPU, 1.0)
    assert moved == ([pixels.nbytes] * 2 if fraction else [])
    larger = np.zeros((6, 6, 6, 3), np.uint8)
    _on_device(larger, torch.device("cuda"), fraction)
    assert len(moved) == (2 if fraction else 0)


def test_images_decoded_anew_have_torchs_default_memory_format(data_path):
    make_coop(data_path)
    images, _ = next(iter(loaders(find_dataset("dtd").read(), None, batch_size=2).train))
    assert images.is_contiguous() and not images.is_contiguous(memory_format=torch.channels_last)
