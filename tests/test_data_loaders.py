"""Loaders: values, labels, order, and that pixels are the same wherever they come from."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from make_data import make_abide, make_coop, make_folders, make_lmdb
from test_data_transforms import BICUBIC, make_mixed
from torchvision.transforms import v2

import data.fetching
from data.batches import WHOLE, Loader
from data.catalog import find_dataset
from data.fetching import _on_device, gather
from data.loaders import build_data, build_loader, load_data, read_dataset
from data.sources import ImageArrays
from data.splits import Splits, whole
from data.transforms import decode
from errors import UserError

CPU = torch.device("cpu")
FLIP = v2.RandomHorizontalFlip()
FIXED = [v2.Resize((16, 16))]
RANDOM = [*FIXED, v2.RandomCrop(12), FLIP]
EVP = [v2.Resize(16, BICUBIC), v2.RandomCrop(16), FLIP]


def loaders(splits, cache_folder, *, workers=0, batch_size=4, train=FIXED, evaluation=FIXED):
    how = {"batch_size": batch_size, "device": CPU, "workers": workers, "cache_folder": cache_folder}
    run = SimpleNamespace(loading=lambda default: how)
    return load_data(splits, run, train=train, eval=evaluation)


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


# Processes take a second to start. A quick test has some: test_a_pass_draws_once_for_its_order_and_once_for_its_seeds.
TWO = pytest.param(False, 2, marks=pytest.mark.slow)
sources = pytest.mark.parametrize("cache, workers", [(True, 0), (False, 0), TWO])


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
        expected = [decode(FIXED, split.open(position)) for position in range(len(split))]
        expected = np.stack(expected).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(images.numpy(), expected)
        assert labels.tolist() == split.labels.tolist()


@sources
def test_training_images_keep_their_labels(tmp_path, cache, workers):
    built = loaders(numbered(50), tmp_path if cache else None, workers=workers, train=[v2.Resize(4)])
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


def own(image):
    """No transform of torchvision's: it writes to its argument, and draws."""
    image[0, :, : int(torch.randint(1, 9, ()))] = 0
    return image


TRANSFORMS = {
    "fixed": FIXED,
    "random": RANDOM,
    "flips only": [*FIXED, FLIP],
    "clip": [v2.Resize(16, BICUBIC), v2.CenterCrop(16)],
    "evp": EVP,
    "evp, smaller crop": [v2.Resize(16, BICUBIC), v2.RandomCrop(9), FLIP],
    "ColorJitter": [*FIXED, v2.ColorJitter(0.4, 0.4, 0.4, 0.1)],
    "TrivialAugmentWide": [*FIXED, v2.TrivialAugmentWide()],
    "random from the start": [v2.RandomResizedCrop(12)],
    "own": [*FIXED, own],
}


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
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
    assert first.shape[:2] == (12, 3) and not torch.equal(first, again)
    if transform is not FIXED and transform is not TRANSFORMS["clip"]:  # not only in another order
        assert {image.numpy().tobytes() for image in first} != {image.numpy().tobytes() for image in again}


@sources
@pytest.mark.parametrize("transform", [v2.ColorJitter(0.4), v2.TrivialAugmentWide(), own], ids="jta")
def test_every_image_has_its_own_draw(tmp_path, cache, workers, transform):
    """Equal images end up different, in one batch and from batch to batch; evaluation sees them as they are."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8).repeat(20, 0)
    split = whole(ImageArrays(pixels), np.zeros(20, int))
    splits = Splits("equal", ("a",), split, None, split)
    built = loaders(splits, tmp_path if cache else None, workers=workers, batch_size=10, train=[transform])
    torch.manual_seed(0)
    first, second = (len({image.numpy().tobytes() for image in images}) for images, _ in built.train)
    assert min(first, second) > 4
    assert torch.equal(everything(built.test)[0], torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)


@pytest.mark.parametrize("train", [RANDOM, FIXED, [v2.TrivialAugmentWide(), v2.Resize((8, 8))]], ids=str)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_draws_once_for_its_order_and_once_for_its_seeds(tmp_path, train, workers):
    """Whatever its transforms draw, so that they change nothing else in the run."""
    built = loaders(numbered(10, 16), tmp_path, train=train, workers=workers)
    torch.manual_seed(0)
    everything(built.train)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    torch.randperm(10)
    if train is not FIXED:
        torch.randint(2**32, (10,))
    assert torch.equal(torch.get_rng_state(), state)
    everything(built.test)
    assert torch.equal(torch.get_rng_state(), state)


@sources
@pytest.mark.parametrize("train", [[v2.Resize(16)], [], [v2.Resize(16), FLIP]], ids=str)
def test_images_of_several_sizes(data_path, cache, workers, train):
    make_mixed(data_path)
    splits = find_dataset("mine").read()
    built = loaders(splits, data_path / ".cache" if cache else None, workers=workers, batch_size=12, train=train)
    with pytest.raises(UserError, match=r"mine train: .*one size(.|\n)* x (.|\n)*CenterCrop or a RandomCrop"):
        everything(built.train)


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
    transform = [v2.Resize((200, 200))]
    built = loaders(splits, data_path / ".cache" if cache else None, train=transform, evaluation=transform)
    images, labels = everything(built.test)
    assert images.shape == (3, 3, 200, 200) and images.dtype == torch.float32
    assert labels.tolist() == splits.test.labels.tolist()
    for position in range(3):
        for channel in range(3):
            np.testing.assert_array_equal(images[position, channel], np.asarray(splits.test.open(position)))


def test_arrays_of_another_size_are_resized(tmp_path):
    splits = find_dataset("digits").read()
    images, labels = everything(loaders(splits, tmp_path, batch_size=100, evaluation=[v2.Resize((20, 20))]).test)
    assert images.shape == (360, 3, 20, 20)
    expected = torch.from_numpy(decode([v2.Resize((20, 20))], splits.test.open(17))).permute(2, 0, 1)
    assert torch.equal(images[17], expected / 255) and labels[17] == splits.test.labels[17]


@pytest.mark.parametrize("transform", [[v2.Resize((8, 8))], [v2.Resize((8, 8)), FLIP], [v2.Resize(8)]], ids=str)
@pytest.mark.parametrize("size", [8, 10])
def test_arrays_of_the_right_size_are_not_decoded(tmp_path, monkeypatch, transform, size):
    calls = []
    monkeypatch.setattr(data.fetching, "decode", lambda fixed, image: calls.append(1) or decode(fixed, image))
    evaluation = [v2.Resize(8, BICUBIC), v2.CenterCrop(6)]
    built = loaders(numbered(20, size), tmp_path, train=transform, evaluation=evaluation)
    images, _ = everything(built.train)
    assert images.shape == (20, 3, 8, 8) and sorted(numbers(images)) == list(range(20))
    assert len(calls) == (0 if size == 8 else 20)
    images, _ = everything(built.test)  # a crop is part of decoding
    assert images.shape == (20, 3, 6, 6) and numbers(images) == list(range(20))


def test_train_and_eval_transforms_are_not_mixed_up(tmp_path):
    built = loaders(numbered(6, 8), tmp_path, train=[v2.RandomCrop(5)], evaluation=[v2.CenterCrop(6)])
    assert next(iter(built.train))[0].shape == (4, 3, 5, 5)
    assert next(iter(built.test))[0].shape == (4, 3, 6, 6)


def test_examples_are_from_all_over_the_split(tmp_path):
    built = loaders(numbered(9), tmp_path)
    assert numbers(built.train.examples) == numbers(built.test.examples) == [0, 2, 5, 8]
    assert numbers(loaders(numbered(3), tmp_path).test.examples) == [0, 1, 2]
    assert built.train.examples.shape == (4, 3, 16, 16)
    assert len(built.train) == 2 and len(everything(built.train)[1]) == 9
    assert len(built.test) == 3 and len(everything(built.test)[1]) == 9  # the loader is as it was


@sources
@pytest.mark.parametrize("transform", [FIXED, RANDOM, EVP, [*FIXED, v2.TrivialAugmentWide()]], ids=str)
@pytest.mark.parametrize("processes", [2, 3, 5])
def test_parts_make_up_the_batches(data_path, transform, cache, workers, processes):
    """The parts of several processes together are the batch of one: each image once, with the same crop and flip.

    The last batch is smaller, and some processes have no image of it.
    """
    make_folders(data_path, "mine", counts={"train": 5, "val": 0, "test": 2}, classes=("a", "b"))
    split = find_dataset("mine").read().train
    how = {"batch_size": 4, "device": CPU, "workers": workers, "shuffle": True}
    how["cache_folder"] = data_path / ".cache" if cache else None

    def batches(part):
        loader = build_loader(split, transform, "mine train", part=part, **how)
        torch.manual_seed(3)
        return list(loader)

    whole = batches(WHOLE)
    assert [len(labels) for _, labels in whole] == [4, 4, 2]
    for first in range(processes):
        part = slice(first, None, processes)
        for (images, labels), (all_images, all_labels) in zip(batches(part), whole, strict=True):
            assert torch.equal(images, all_images[part]) and torch.equal(labels, all_labels[part])
            assert images.shape[1:] == all_images.shape[1:]


def test_what_a_script_asks_of_the_data(tmp_path, small):
    """A script gets the row's values, the loaders and their names, and a batch size that the run may change."""
    selection = {"shots": 2, "train_fraction": None, "val_fraction": None, "seed": 0}
    how = {"batch_size": 3, "device": CPU, "workers": 0, "cache_folder": tmp_path, "part": slice(0, 2)}
    asked = []
    run = SimpleNamespace(
        identify=lambda data: None, selection=selection, loading=lambda size: asked.append(size) or how
    )
    dataset = read_dataset("small", run)
    data = load_data(dataset, run, train=RANDOM, eval=FIXED)
    assert asked == [8] and dataset.image_size == 32 and dataset.text_template is dataset.inner_mask is None
    assert data.dataset is dataset and data.eval_transforms is FIXED
    assert (data.name, data.class_names, data.num_classes) == ("small", ("ant", "bee", "cow", "doe"), 4)
    assert [len(loader.labels) for loader in (data.train, data.val, data.test)] == [8, 12, 20]
    assert [len(labels) for _, labels in data.train] == [2, 2, 2]
    images, labels = everything(data.train_as_eval)
    assert images.shape == (6, 3, 16, 16) and labels.tolist() == dataset.train.labels[[0, 1, 3, 4, 6, 7]].tolist()
    assert torch.equal(images[2], everything(data.train_as_eval)[0][2])
    assert data.train_as_eval is not data.train_as_eval


def test_some_splits_alone(tmp_path, small):
    how = {"batch_size": 3, "device": CPU, "workers": 0, "cache_folder": tmp_path}
    run = SimpleNamespace(loading=lambda size: how)
    data = load_data(find_dataset("small").read(), run, train=RANDOM, eval=FIXED, parts=("test",))
    assert data.train is data.val is None and len(data.test) == 7
    assert len(list(tmp_path.glob("*.pixels"))) == 1


def test_encoded_data(tmp_path, small):
    built, encoder, shown = loaders(find_dataset("small").read(), tmp_path), Encoder(), []
    encoded = built.encoded(encoder, lambda batches, text: (shown.append(text), batches)[1])
    assert shown == ["train features", "val features", "test features"] and encoder.seen == 24 + 12 + 20
    assert next(iter(encoded.val))[0].shape == (4, 5) and encoded.dataset is built.dataset
    without_val = loaders(numbered(4), tmp_path).encoded(encoder, lambda batches, text: batches)
    assert without_val.val is None and len(without_val.test) == 1


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


def test_arrays_of_one_channel_travel_as_one():
    """Pinned memory cannot hold a tensor whose channels are one and the same; the loader spreads them on the device."""
    array = np.random.default_rng(0).random((5, 6, 6), dtype=np.float32)
    fetched = next(gather(torch.from_numpy(array), CPU)([torch.tensor([3, 1])], WHOLE))
    assert fetched.shape == (2, 1, 6, 6)
    assert 0 not in fetched.stride()
    fetch = gather(torch.from_numpy(array), CPU)
    loader = Loader(np.arange(5), fetch, batch_size=5, shuffle=False, device=CPU)
    images, _ = next(iter(loader))
    assert torch.equal(images, torch.from_numpy(array)[:, None].expand(-1, 3, -1, -1))


@pytest.mark.parametrize(
    "count, device, cached, asked, workers",
    [
        (10, "cpu", True, None, 0),
        (10, "cpu", True, 3, 3),
        (10, "cuda", False, None, 6),
        (10, "cuda", True, None, 0),
        (4100, "cuda", True, None, 2),
        (10, "cuda", True, 5, 5),
    ],
)
def test_number_of_workers(tmp_path, monkeypatch, count, device, cached, asked, workers):
    seen = []
    monkeypatch.setattr(data.fetching.os, "cpu_count", lambda: 6)
    monkeypatch.setattr(data.fetching, "_one_by_one", lambda *how: seen.append(how[2]))
    split = whole(ImageArrays(np.zeros((count, 2, 2, 3), np.uint8)), np.zeros(count, int))
    how = {"batch_size": 4, "device": torch.device(device), "workers": asked}
    build_loader(split, [v2.ColorJitter(0.5)], "x", cache_folder=tmp_path if cached else None, **how)
    assert seen == [workers]


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_pixels_stay_in_the_gpus_memory_where_they_fit(fraction, monkeypatch):
    """Tests only the decision: there is no GPU here."""
    moved = []
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (2 * 5 * 6 * 6 * 3, 10**9))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: moved.append(self.nbytes) or self)
    pixels = np.zeros((5, 6, 6, 3), np.uint8)
    _on_device(pixels, torch.device("cuda"), fraction)
    _on_device(pixels, CPU, 1.0)
    assert moved == ([pixels.nbytes] if fraction else [])
    larger = np.zeros((6, 6, 6, 3), np.uint8)
    _on_device(larger, torch.device("cuda"), fraction)
    assert len(moved) == (1 if fraction else 0)


def test_images_decoded_anew_have_torchs_default_memory_format(data_path):
    make_coop(data_path)
    images, _ = next(iter(loaders(find_dataset("dtd").read(), None, batch_size=2).train))
    assert images.is_contiguous() and not images.is_contiguous(memory_format=torch.channels_last)


def test_one_pass_over_the_training_images_keeps_none_on_the_gpu(tmp_path, monkeypatch):
    fractions = []
    monkeypatch.setattr(data.fetching, "_on_device", lambda pixels, device, most: fractions.append(most) or pixels)
    how = {"batch_size": 4, "device": torch.device("cuda"), "workers": 0, "cache_folder": tmp_path}
    built = build_data(numbered(9), train=FIXED[:0], eval=FIXED[:0], gpu_cache_fraction=0.3, **how)
    assert fractions == [0.3, 0.3]
    assert len(built.train_as_eval) == 3
    assert fractions == [0.3, 0.3, 0.0]


def test_features_reach_cuda_from_pinned_memory(tmp_path, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.shape) or tensor)
    loader = loaders(numbered(10), tmp_path).test
    loader.device = torch.device("cuda")
    images = torch.rand(10, 3, 2, 2)
    encoded = loader.encoded(lambda batch: batch.mean((2, 3)), lambda _: [(images, None)])
    batches = list(encoded._fetch([torch.tensor([3, 1]), torch.tensor([9])], WHOLE))
    assert torch.equal(torch.cat(batches), images.mean((2, 3))[[3, 1, 9]])
    assert pinned == [(2, 3), (1, 3)]


@pytest.mark.parametrize("transform", [FIXED, RANDOM], ids=str)
def test_images_decoded_anew_leave_pinned_memory_by_one_copy(data_path, transform, monkeypatch):
    """What DataLoader has pinned is handed on as it lies: a copy on the host would be pageable again, and block."""
    make_coop(data_path)
    pinned = []

    class Pinning(data.fetching.DataLoader):
        def __iter__(self):
            for images in super().__iter__():
                pinned.append((images.data_ptr(), images.shape, images.stride()))
                yield images

    monkeypatch.setattr(data.fetching, "DataLoader", Pinning)
    split = find_dataset("dtd").read().train
    fetch = data.fetching.fetcher(split, transform, "x", torch.device("cuda"), 0, None, 0.3)
    batches = list(fetch([torch.tensor([0, 2, 1]), torch.tensor([3])], WHOLE))
    assert [(images.data_ptr(), images.shape, images.stride()) for images in batches] == pinned and len(pinned) == 2


@pytest.mark.parametrize(
    ("count", "batch_size", "training", "evaluation"),
    [
        (9, 4, [4, 5], [4, 4, 1]),
        (10, 4, [4, 4, 2], [4, 4, 2]),
        (8, 4, [4, 4], [4, 4]),
        (5, 4, [5], [4, 1]),
        (3, 4, [3], [3]),
        (3, 1, [1, 1, 1], [1, 1, 1]),
        (3, 2, [3], [2, 1]),
    ],
)
@pytest.mark.parametrize("cache", [True, False])
def test_a_lone_image_joins_the_batch_before_it_in_training(tmp_path, count, batch_size, training, evaluation, cache):
    data = loaders(numbered(count), tmp_path if cache else None, batch_size=batch_size, train=[FLIP])
    for loader, expected in ((data.train, training), (data.test, evaluation)):
        batches = [(len(images), len(labels)) for images, labels in loader]
        assert batches == [(size, size) for size in expected]
        assert len(loader) == len(expected)


def test_parts_of_a_batch_that_a_lone_image_has_joined():
    """Three processes see each image once, in the batches of one process."""
    torch.manual_seed(0)
    split = numbered(9).train
    how = {"batch_size": 4, "device": CPU, "workers": 0, "cache_folder": None, "shuffle": True}
    batches = {}
    for part in (WHOLE, slice(0, None, 3), slice(1, None, 3), slice(2, None, 3)):
        torch.manual_seed(3)
        batches[part.start] = [numbers(images) for images, _ in build_loader(split, [], "x", part=part, **how)]
    whole_batches = batches.pop(None)
    assert [len(batch) for batch in whole_batches] == [4, 5]
    for number, batch in enumerate(whole_batches):
        assert [batches[start][number] for start in range(3)] == [batch[start::3] for start in range(3)]


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_the_positions_of_what_each_process_gets(processes):
    """Of 9 images in batches of 4 the processes get each once; the last batch has none for some of five processes."""
    split, positions = numbered(9).test, []
    for rank in range(processes):
        part = slice(rank, None, processes)
        loader = build_loader(split, [], "x", batch_size=4, device=CPU, workers=0, cache_folder=None, part=part)
        images = [number for images, _ in loader for number in numbers(images)]
        assert images == loader.positions.tolist()
        positions += images
    assert sorted(positions) == list(range(9))
