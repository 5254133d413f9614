"""The cache of decoded pixels: made once, and made again whenever it must be."""

import errno
import io
import os

import numpy as np
import PIL
import pytest
import torch
from make_data import encoded, make_coop, make_lmdb, noise, write_image, write_lmdb

import cfg
from data.cache import cached_pixels
from data.catalog import find_dataset
from data.loaders import build_loaders
from data.transforms import Transform

SIZE = Transform(8)


@pytest.fixture
def decoded(monkeypatch):
    """A list that grows by one for every image that is decoded."""
    calls = []
    decode = Transform.decode

    def counted(self, image):
        calls.append(self.size)
        return decode(self, image)

    monkeypatch.setattr(Transform, "decode", counted)
    return calls


def train_split(name="dtd"):
    return find_dataset(name).read().train


def expected_pixels(split, transform=SIZE):
    decode = Transform.decode
    return np.stack([decode(transform, split.open(position)) for position in range(len(split))])


def pixels(cache, split=None, transform=SIZE):
    """The cached pixels, checked; and the number of files in the cache."""
    split = split or train_split()
    found = cached_pixels(split, transform, cache, "dtd train")
    np.testing.assert_array_equal(found, expected_pixels(split, transform))
    return len(list(cache.iterdir()))


def build(name, cache, train=SIZE):
    device = torch.device("cpu")
    how = {"batch_size": 4, "device": device, "workers": 0, "cache_folder": cache}
    return build_loaders(find_dataset(name).read(), train_transform=train, eval_transform=SIZE, **how)


@pytest.mark.parametrize("make", [make_coop, make_lmdb])
def test_images_are_decoded_once(data_path, cache, decoded, make):
    make(data_path)
    first = build("dtd", cache)
    assert len(decoded) == 9 + 3 + 6
    again = build("dtd", cache)
    for loader, other in zip(vars(first).values(), vars(again).values(), strict=True):
        for _ in range(2):
            torch.manual_seed(0)
            batches = list(loader)
            torch.manual_seed(0)
            for (images, labels), (other_images, other_labels) in zip(batches, other, strict=True):
                assert torch.equal(images, other_images) and torch.equal(labels, other_labels)
    assert len(decoded) == 9 + 3 + 6
    assert len(list(cache.iterdir())) == 3 and {file.suffix for file in cache.iterdir()} == {".npy"}


def test_the_random_part_shares_the_cache(data_path, cache, decoded):
    make_coop(data_path)
    build("dtd", cache)
    build("dtd", cache, train=Transform(8, crop=6, random=True))
    assert len(decoded) == 18


def test_file_is_mapped_and_plain(data_path, cache):
    make_coop(data_path)
    found = cached_pixels(train_split(), SIZE, cache, "dtd train")
    assert isinstance(found, np.memmap) and found.dtype == np.uint8 and found.shape == (9, 8, 8, 3)
    assert not found.flags.writeable
    (file,) = cache.iterdir()
    np.testing.assert_array_equal(np.load(file), expected_pixels(train_split()))


def test_arrays_need_no_cache(data_path, cache):
    build("digits", cache)
    assert not cache.exists()


@pytest.mark.parametrize("chunk", [1, 4, 9, 100])
def test_chunks_are_in_order(data_path, cache, monkeypatch, chunk):
    monkeypatch.setattr("data.cache._CHUNK", chunk)
    make_coop(data_path)
    assert pixels(cache) == 1


def header(shape, descr="|u1"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


# what stands in the cache's file, made from its right content
SPOILT = {
    "cut in half": lambda whole: whole[: len(whole) // 2],
    "one byte missing": lambda whole: whole[:-1],
    "cut in its header": lambda whole: whole[:40],
    "text": lambda whole: b"something else",
    "an image": lambda whole: encoded(noise(0)),
    "another shape": lambda whole: header((9, 8, 8, 1)) + bytes(9 * 64),
    "another size": lambda whole: header((9, 4, 4, 3)) + bytes(9 * 48),
    "another type": lambda whole: header((9, 8, 8, 3), "<f4") + bytes(9 * 192 * 4),
    "a pickled array": lambda whole: header((9, 8, 8, 3), "|O") + b"cos\nsystem\n(S'true'\ntR.",
    # np.load raises EOFError or zipfile.BadZipFile for these, or gives an NpzFile
    "empty": lambda whole: b"",
    "the start of a zip file": lambda whole: b"PK\x03\x04" + bytes(30),
    "an .npz archive": lambda whole: npz(np.frombuffer(whole[-9 * 192 :], np.uint8)),
}


def npz(array):
    file = io.BytesIO()
    np.savez(file, array)
    return file.getvalue()


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_spoilt_file_is_made_again(data_path, cache, decoded, spoil):
    make_coop(data_path)
    split = train_split()
    cached_pixels(split, SIZE, cache, "dtd train")
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(spoil(whole))
    decoded.clear()
    cached_pixels(split, SIZE, cache, "dtd train")
    assert len(decoded) == 9
    assert [other.read_bytes() for other in cache.iterdir()] == [whole]
    cached_pixels(split, SIZE, cache, "dtd train")
    assert len(decoded) == 9


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


def test_other_pixels_give_a_new_cache(data_path, cache):
    make_coop(data_path)
    split = train_split()
    assert pixels(cache, split) == 1
    assert pixels(cache, split.take(np.arange(5))) == 2
    assert pixels(cache, split, Transform(9)) == 3
    assert pixels(cache, split, Transform(9, crop=5, random=True)) == 3


def test_changed_lmdb_gives_a_new_cache(data_path, cache):
    make_lmdb(data_path)
    assert pixels(cache) == 1
    (data_path / "dtd/train.lmdb").unlink()
    write_lmdb(data_path / "dtd/train.lmdb", [(encoded(noise(70 + i)), i % 3) for i in range(9)])
    assert pixels(cache) == 2


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_failure_leaves_nothing_behind(data_path, cache, monkeypatch, error):
    """Neither a temporary file nor a half one under the cache's name."""
    make_coop(data_path)
    during = []

    def fail(source, target):
        during.extend(file.name for file in cache.iterdir())
        raise error

    monkeypatch.setattr(os, "replace", fail)
    if isinstance(error, OSError):
        assert cached_pixels(train_split(), SIZE, cache, "dtd train") is None
    else:
        with pytest.raises(type(error)):
            cached_pixels(train_split(), SIZE, cache, "dtd train")
    assert len(during) == 1 and during[0].endswith(".tmp")
    assert not list(cache.iterdir())
    monkeypatch.undo()
    monkeypatch.setattr(cfg, "data_path", data_path)
    assert pixels(cache) == 1
