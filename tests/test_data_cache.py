"""The cache of decoded pixels: made once, and made again whenever what it is made from has changed."""

import errno
import os
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
import torch
from make_data import encoded, make_coop, make_lmdb, noise, write_image, write_lmdb
from test_data_transforms import AUGMENTATIONS, BICUBIC, make_mixed
from torchvision.transforms import v2

import cfg
import data.cache
from data.cache import RaggedPixels, _bytes_needed, cached_pixels
from data.catalog import find_dataset
from data.loaders import load_data
from data.splits import PARTS
from data.transforms import decode

SIZE = [v2.Resize((8, 8))]
RAGGED = [v2.Resize(8, BICUBIC)]
CROP = v2.RandomCrop(6)

both = pytest.mark.parametrize("transform", [SIZE, RAGGED], ids=["one size", "ragged"])


@pytest.fixture
def decoded(monkeypatch):
    """A list that grows by one for every image that is decoded."""
    calls = []

    def counted(fixed, image):
        calls.extend([fixed] * (image.size != (640, 480)))  # that one is the estimate of the file's length
        return decode(fixed, image)

    monkeypatch.setattr(data.cache, "decode", counted)
    return calls


def train_split(name="dtd"):
    return find_dataset(name).read().train


def expected_pixels(split, transform=SIZE):
    return [decode(transform, split.open(position)) for position in range(len(split))]


def assert_pixels(found, split, transform):
    expected = expected_pixels(split, transform)
    assert len(found) == len(expected)
    for position, pixels in enumerate(expected):
        assert found[position].dtype == np.uint8
        np.testing.assert_array_equal(found[position], pixels)


def pixels(cache, split=None, transform=SIZE):
    """The cached pixels, checked twice: as they are written and as they are found; the number of files in the cache."""
    split = split or train_split()
    for _ in range(2):
        assert_pixels(cached_pixels(split, transform, cache, "dtd train"), split, transform)
    return len(list(cache.iterdir()))


def build(name, cache, train=SIZE):
    how = {"batch_size": 4, "device": torch.device("cpu"), "workers": 0, "cache_folder": cache}
    run = SimpleNamespace(loading=lambda batch_size: how)
    return load_data(find_dataset(name).read(), run, train=train, eval=SIZE)


@pytest.mark.parametrize("make", [make_coop, make_lmdb])
def test_images_are_decoded_once(data_path, cache, decoded, make):
    make(data_path)
    first = build("dtd", cache)
    assert len(decoded) == 9 + 3 + 6
    again = build("dtd", cache)
    for loader, other in ((getattr(first, part), getattr(again, part)) for part in PARTS):
        for _ in range(2):
            torch.manual_seed(0)
            batches = list(loader)
            torch.manual_seed(0)
            for (images, labels), (other_images, other_labels) in zip(batches, other, strict=True):
                assert torch.equal(images, other_images) and torch.equal(labels, other_labels)
    assert len(decoded) == 9 + 3 + 6
    assert len(list(cache.iterdir())) == 3 and {file.suffix for file in cache.iterdir()} == {".pixels"}


@pytest.mark.parametrize("random", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_the_cache_holds_what_comes_before_the_first_random_transform(data_path, cache, decoded, random):
    make_coop(data_path)
    build("dtd", cache)
    again = build("dtd", cache, train=[*SIZE, *random])
    assert sum(len(labels) for _ in range(2) for _, labels in again.train) == 18
    assert len(decoded) == 18


def test_file_is_mapped(data_path, cache):
    make_coop(data_path)
    found = cached_pixels(train_split(), SIZE, cache, "dtd train")
    assert isinstance(found, np.memmap) and found.dtype == np.uint8 and found.shape == (9, 8, 8, 3)
    assert not found.flags.writeable


@pytest.fixture
def mixed(data_path):
    """A split of 12 images, landscape, portrait and square."""
    make_mixed(data_path)
    return train_split("mine")


def test_ragged_file_is_mapped(cache, mixed):
    found = cached_pixels(mixed, RAGGED, cache, "mine train")
    assert isinstance(found, RaggedPixels) and len(found) == 12
    shapes = [image.shape for image in expected_pixels(mixed, RAGGED)]
    assert [found[position].shape for position in range(12)] == shapes
    assert (8, 12, 3) in shapes and (12, 8, 3) in shapes and (8, 8, 3) in shapes
    for image in (found[0], found[np.int64(11)]):
        assert isinstance(image, np.memmap) and image.dtype == np.uint8 and not image.flags.writeable
    assert pixels(cache, mixed, RAGGED) == 2  # another label, another file


@both
def test_format(cache, mixed, transform):
    """Pixels, then sizes, then the checksum, and not a byte more."""
    cached_pixels(mixed, transform, cache, "mine train")
    (file,) = cache.iterdir()
    images = expected_pixels(mixed, transform)
    sizes = np.array([image.shape[:2] for image in images], "<u4")
    content = b"".join([image.tobytes() for image in images]) + sizes.tobytes()
    assert file.read_bytes() == content + zlib.crc32(content).to_bytes(4, "little")
    if transform is SIZE:
        assert file.stat().st_size == _bytes_needed(12, SIZE)


@pytest.mark.parametrize("transform", [RAGGED, [v2.Resize(8)]])
def test_images_of_one_size_are_one_array(data_path, cache, transform):
    """Where the sizes may vary but do not."""
    make_lmdb(data_path)  # images of 5 x 4 pixels
    assert cached_pixels(train_split(), transform, cache, "dtd train").shape == (9, 8, 10, 3)
    assert pixels(cache, transform=transform) == 1


def test_no_split_is_held_in_memory(data_path, cache, monkeypatch):
    monkeypatch.setattr("data.cache._CHUNK", 4)
    make_coop(data_path, counts={"train": 20, "val": 1, "test": 1})
    split, transform = train_split(), [v2.Resize(100)]
    tracemalloc.start()
    found = cached_pixels(split, transform, cache, "dtd train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = next(cache.iterdir()).stat().st_size
    assert isinstance(found, RaggedPixels) and whole > 60 * 30_000
    assert peak < whole / 3


def test_arrays_need_no_cache(data_path, cache):
    build("digits", cache)
    assert not cache.exists()


@both
@pytest.mark.parametrize("chunk", [1, 4, 12, 100])
def test_chunks_are_in_order(cache, mixed, monkeypatch, chunk, transform):
    monkeypatch.setattr("data.cache._CHUNK", chunk)
    assert pixels(cache, mixed, transform) == 1


IMAGE = "dtd/images/banded/train_0.jpg"


def other_time(data_path, monkeypatch):
    status = (data_path / IMAGE).stat()
    os.utime(data_path / IMAGE, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def other_size(data_path, monkeypatch):
    """Another image with the old one's time."""
    status = (data_path / IMAGE).stat()
    write_image(data_path / IMAGE, noise(99, 30, 30))
    os.utime(data_path / IMAGE, ns=(status.st_atime_ns, status.st_mtime_ns))


def other_label(data_path, monkeypatch):
    file = data_path / "dtd/split_zhou_DescribableTextures.json"
    first = '["Pink_Primrose/train_0.jpg", 0, "Pink_Primrose"]'
    file.write_text(file.read_text().replace(first, first.replace('0, "Pink_Primrose"', '1, "banded"')))


def other_order(data_path, monkeypatch):
    file = data_path / "dtd/split_zhou_DescribableTextures.json"
    file.write_text(file.read_text().replace("train_0", "x").replace("train_1", "train_0").replace("x", "train_1"))


def other_pillow(data_path, monkeypatch):
    monkeypatch.setattr(PIL, "__version__", "0.0.1")


@pytest.mark.parametrize("change", [other_time, other_size, other_label, other_order, other_pillow])
def test_changed_input_gives_a_new_cache(data_path, cache, monkeypatch, change):
    make_coop(data_path)
    assert pixels(cache) == 1
    change(data_path, monkeypatch)
    assert pixels(cache) == 2
    assert pixels(cache) == 2


def test_other_images_give_a_new_cache(data_path, cache):
    make_coop(data_path)
    assert pixels(cache) == 1
    assert pixels(cache, train_split().take(np.arange(5))) == 2


def test_other_transforms_give_a_new_cache(cache, mixed):
    """Every list of a grid, in one folder, under one label; the same list again finds its file."""
    sizes = [
        v2.Resize(size, mode) for size in (8, 9, (8, 8), (8, 9)) for mode in (v2.InterpolationMode.BILINEAR, BICUBIC)
    ]
    crops = [[], [v2.CenterCrop(8)], [v2.CenterCrop(5)], [v2.Pad(1)], [v2.Grayscale()]]
    for number, transforms in enumerate(([size, *crop] for size in sizes for crop in crops), start=1):
        assert pixels(cache, mixed, transforms) == number


def test_equal_lists_share_a_file(cache, mixed):
    equal = [[v2.Resize(8, BICUBIC)], [v2.Resize([8], BICUBIC)], [v2.Resize((8,), BICUBIC)]]
    assert [pixels(cache, mixed, transforms) for transforms in equal] == [1, 1, 1]


def test_changed_lmdb_gives_a_new_cache(data_path, cache):
    make_lmdb(data_path)
    assert pixels(cache) == 1
    (data_path / "dtd/train.lmdb").unlink()
    write_lmdb(data_path / "dtd/train.lmdb", [(encoded(noise(70 + i)), i % 3) for i in range(9)])
    assert pixels(cache) == 2


def test_what_a_killed_process_left_goes(data_path, cache):
    make_coop(data_path, "dtd")
    split = train_split()
    cached_pixels(split, SIZE, cache, "x")
    (file,) = cache.iterdir()
    content = file.read_bytes()
    file.rename(file.with_suffix(".12345.tmp"))
    cached_pixels(split, SIZE, cache, "x")
    assert [path.read_bytes() for path in cache.iterdir()] == [content]


def test_of_several_processes_one_decodes(data_path, cache, monkeypatch, capsys):
    """The others wait. Threads stand for processes: their locks are as separate as those of processes."""
    make_coop(data_path, "dtd")
    split, calls = train_split(), []

    def slow(fixed, image):
        calls.extend([image] * (image.size != (640, 480)))
        time.sleep(0.1)
        return decode(fixed, image)

    monkeypatch.setattr(data.cache, "decode", slow)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cached_pixels(split, SIZE, cache, "x"), range(4)))
    assert len(calls) == len(split)
    for pixels in found:
        assert_pixels(pixels, split, SIZE)
    assert capsys.readouterr().out.count("another process is decoding it") == 3
    assert [path.suffix for path in cache.iterdir()] == [".pixels"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), MemoryError()], ids=repr)
@both
def test_failure_leaves_nothing_behind(data_path, cache, monkeypatch, error, transform):
    """Neither a temporary file nor a half one under the cache's name."""
    make_coop(data_path)
    during = []

    def fail(source, target):
        during.extend(file.name for file in cache.iterdir())
        raise error

    monkeypatch.setattr(os, "replace", fail)
    if isinstance(error, OSError):
        assert cached_pixels(train_split(), transform, cache, "dtd train") is None
    else:
        with pytest.raises(type(error)):
            cached_pixels(train_split(), transform, cache, "dtd train")
    assert sorted(name.rpartition(".")[2] for name in during) == ["lock", "tmp"]
    assert not list(cache.iterdir())
    monkeypatch.undo()
    monkeypatch.setattr(cfg, "data_path", data_path)
    assert pixels(cache, transform=transform) == 1
