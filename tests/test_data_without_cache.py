"""Without a usable cache of pixels: a damaged file is made again. If none can be made, there is a message, and the same
images are decoded every epoch.
"""

import errno
import io
import os
import shutil
import zlib
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from make_data import encoded, make_folders, noise
from test_data_cache import CROP, SIZE, assert_pixels, both
from test_data_transforms import make_mixed

from data.cache import _bytes_needed, _mapped, cached_pixels
from data.catalog import find_dataset
from data.loaders import load_data
from errors import UserError


@pytest.fixture
def mixed(data_path):
    """A split of 12 images, landscape, portrait and square."""
    make_mixed(data_path)
    return find_dataset("mine").read().train


TRAILER = 12 * 8 + 4  # bytes at the end of the file of 12 images


def checked(content):
    """With its own checksum behind it, so that something else must be wrong."""
    return content + zlib.crc32(content).to_bytes(4, "little")


def with_sizes(change):
    """Puts other sizes (12,2) after the same pixels."""

    def spoil(whole):
        sizes = np.frombuffer(whole[-TRAILER:-4], "<u4").astype(np.int64).reshape(12, 2)
        return checked(whole[:-TRAILER] + np.asarray(change(sizes)).astype("<u4").tobytes())

    return spoil


def with_a_hole(whole):
    return whole[:500] + bytes(100) + whole[600:]


def one_more(place):
    def change(sizes):
        sizes[place] += 1
        return sizes

    return with_sizes(change)


# what stands in the cache's file, made from its right content
SPOILT = {
    "cut in half": lambda whole: whole[: len(whole) // 2],
    "one byte missing": lambda whole: whole[:-1],
    "one size missing": lambda whole: whole[:-8],
    "sizes missing": lambda whole: whole[:-TRAILER],
    "first image missing": lambda whole: whole[192:],
    "sizes only": lambda whole: whole[-TRAILER:],
    "less than the sizes": lambda whole: whole[-40:],
    "one byte more": lambda whole: whole + b"\0",
    "one byte more before the sizes": lambda whole: checked(whole[:-TRAILER] + b"\0" + whole[-TRAILER:-4]),
    "a hole": with_a_hole,
    "another checksum": lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
    "zeros": lambda whole: bytes(len(whole)),
    "sizes of zero": with_sizes(np.zeros_like),
    "first height": one_more((0, 0)),
    "last width": one_more((11, 1)),
    "huge sizes": with_sizes(lambda sizes: np.full((12, 2), 2**32 - 1)),
    "huge longer sides": with_sizes(lambda sizes: np.array([[8, 2**32 - 1]] * 12)),
    "big endian": with_sizes(lambda sizes: sizes.astype(">u4").view("<u4")),
    "another number of images": lambda whole: checked(bytes(11 * 192) + np.full((11, 2), 8, "<u4").tobytes()),
    "text": lambda whole: b"something else",
    "an image": lambda whole: encoded(noise(0)),
    "an array": lambda whole: npy(np.zeros((12, 8, 8, 3), np.uint8)),
    "empty": lambda whole: b"",
}


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@both
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_spoilt_file_is_made_again(cache, mixed, spoil, transform):
    cached_pixels(mixed, transform, cache, "mine train")
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(spoil(whole))
    assert_pixels(cached_pixels(mixed, transform, cache, "mine train"), mixed, transform)
    assert [other.read_bytes() for other in cache.iterdir()] == [whole]


@both
def test_file_cut_off_anywhere_is_not_whole(cache, mixed, transform):
    cached_pixels(mixed, transform, cache, "mine train")
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    for length in range(len(whole) - 1, -1, -5):
        os.truncate(file, length)
        with pytest.raises(ValueError):
            _mapped(file, 12)
    file.write_bytes(whole)
    assert_pixels(_mapped(file, 12), mixed, transform)


def build(name, cache, train):
    how = {"batch_size": 4, "device": torch.device("cpu"), "workers": 0, "cache_folder": cache}
    run = SimpleNamespace(loading=lambda batch_size: how)
    return load_data(find_dataset(name).read(), run, train=[*train, CROP], eval=SIZE)


def no_space(error=errno.ENOSPC):
    raise OSError(error, os.strerror(error))


Usage = namedtuple("Usage", "total used free")


def full_disk(cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 10**9 - 500, 500))


def read_only(cache, monkeypatch):
    monkeypatch.setattr(type(cache), "mkdir", lambda *args, **how: no_space(errno.EROFS))


class SmallDisk(io.FileIO):
    """A file that takes `free` bytes in all."""

    free = 1000

    def write(self, content):
        self.free -= memoryview(content).nbytes
        return super().write(content) if self.free >= 0 else no_space()


def full_while_writing(cache, monkeypatch):
    """Files that are written are on a small disk."""
    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *how, **more: (SmallDisk if "wb" in how else opened)(path, *how, **more)
    )


def file_in_its_place(cache, monkeypatch):
    cache.write_text("")


@both
@pytest.mark.parametrize(
    "obstacle",
    [
        full_disk,
        read_only,
        full_while_writing,
        file_in_its_place,  # removing the temporary file fails, too
    ],
)
def test_without_a_folder_for_the_cache(data_path, cache, monkeypatch, capsys, obstacle, transform):
    make_folders(data_path, counts={"train": 4, "val": 3, "test": 4})
    expected = epochs(build("mine", data_path / "elsewhere", transform))
    capsys.readouterr()
    obstacle(cache, monkeypatch)
    loaders = build("mine", cache, transform)
    printed = capsys.readouterr().out
    for part in ("train", "val", "test"):
        assert f"mine {part}: no cache in {cache} (" in printed
    assert printed.count("decoded every epoch") == 3
    assert all(map(torch.equal, epochs(loaders), expected))
    assert not cache.is_dir() or not list(cache.iterdir())


def epochs(loaders):
    """Images and labels of two epochs."""
    torch.manual_seed(0)
    passes = [batch for loader in (loaders.train, loaders.test) * 2 for batch in loader]
    assert len(passes) == 2 * (3 + 3)
    return [tensor for batch in passes for tensor in batch]


@both
@pytest.mark.parametrize("free", [0, 1, 200, 1200, -97, -96, -1])
def test_disk_full_after(data_path, cache, monkeypatch, capsys, mixed, transform, free):
    """At the start, in the pixels of the first and the second chunk, at the sizes: bytes, from the end if negative."""
    monkeypatch.setattr("data.cache._CHUNK", 4)
    cached_pixels(mixed, transform, data_path / "elsewhere", "mine train")
    (file,) = (data_path / "elsewhere").iterdir()
    full_while_writing(cache, monkeypatch)
    monkeypatch.setattr(SmallDisk, "free", free if free >= 0 else file.stat().st_size + free)
    assert cached_pixels(mixed, transform, cache, "mine train") is None
    assert f"mine train: no cache in {cache} ([Errno 28] No space left" in capsys.readouterr().out
    assert not list(cache.iterdir())
    monkeypatch.setattr(SmallDisk, "free", file.stat().st_size)
    assert_pixels(cached_pixels(mixed, transform, cache, "mine train"), mixed, transform)


@both
def test_damaged_images_are_told_all_the_same(data_path, cache, monkeypatch, transform):
    make_mixed(data_path)
    (data_path / "mine/train/banded/000.png").write_bytes(b"")
    full_disk(cache, monkeypatch)
    with pytest.raises(UserError, match=r"banded/000\.png"):
        build("mine", cache, transform)


@both
def test_enough_space_is_enough(cache, monkeypatch, mixed, transform):
    """For images of one size to the byte and 2 % more, else for the estimate, of images of 4:3."""
    needed = 12 * (8 * 8 * 3 + 8) + 4 if transform is SIZE else 12 * (8 * 10 * 3 + 8) + 4
    assert _bytes_needed(12, transform) == needed
    for free, enough in ((1.02 * needed - 1, False), (1.02 * needed + 1, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: Usage(10**9, 0, free))
        assert (cached_pixels(mixed, transform, cache, "mine train") is not None) == enough


def test_folder_name_with_a_slash(data_path, cache, capsys):
    make_folders(data_path, "mine/birds")
    build("mine/birds", cache, SIZE)
    assert "no cache" not in capsys.readouterr().out
    assert len(list(cache.rglob("*.pixels"))) == 3
