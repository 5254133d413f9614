"""Where no cache of pixels can be made: a message, and the same images, decoded every epoch."""

import errno
import os
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch
from make_data import make_coop, make_folders

from data.cache import cached_pixels
from data.catalog import find_dataset
from data.loaders import build_loaders
from data.transforms import Transform
from errors import UserError


def build(name, cache):
    how = {"batch_size": 4, "device": torch.device("cpu"), "workers": 0, "cache_folder": cache}
    transforms = {"train_transform": Transform(8), "eval_transform": Transform(8)}
    return build_loaders(find_dataset(name).read(), **transforms, **how)


def no_space(error=errno.ENOSPC):
    raise OSError(error, os.strerror(error))


Usage = namedtuple("Usage", "total used free")


def full_disk(cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 10**9 - 500, 500))


def read_only(cache, monkeypatch):
    monkeypatch.setattr(type(cache), "mkdir", lambda *args, **how: no_space(errno.EROFS))


def full_while_writing(cache, monkeypatch):
    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", lambda *args: no_space())


def file_in_its_place(cache, monkeypatch):
    cache.write_text("")


@pytest.mark.parametrize(
    "obstacle",
    [
        full_disk,
        read_only,
        full_while_writing,
        file_in_its_place,  # removing the temporary file fails, too
    ],
)
def test_without_a_place_for_the_cache(data_path, cache, monkeypatch, capsys, obstacle):
    make_coop(data_path)
    expected = [images for images, _ in build("dtd", data_path / "elsewhere").test]
    capsys.readouterr()
    obstacle(cache, monkeypatch)
    loaders = build("dtd", cache)
    printed = capsys.readouterr().out
    for part in ("train", "val", "test"):
        assert f"dtd {part}: no cache in {cache}" in printed
    assert "decoded every epoch" in printed
    for _ in range(2):
        images = [images for images, _ in loaders.test]
        assert all(map(torch.equal, images, expected)) and len(images) == len(expected) == 2
    assert not cache.is_dir() or not list(cache.iterdir())


def test_damaged_images_are_told_all_the_same(data_path, cache, monkeypatch):
    make_coop(data_path)
    (data_path / "dtd/images/banded/train_0.jpg").write_bytes(b"")
    full_disk(cache, monkeypatch)
    with pytest.raises(UserError, match=r"banded/train_0\.jpg"):
        build("dtd", cache)


def test_enough_space_is_enough(data_path, cache, monkeypatch):
    make_coop(data_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 0, 9 * 8 * 8 * 3 + 200))
    assert cached_pixels(find_dataset("dtd").read().train, Transform(8), cache, "dtd train") is not None


def test_folder_name_with_a_slash(data_path, cache, capsys):
    make_folders(data_path, "mine/birds")
    build("mine/birds", cache)
    assert "no cache" not in capsys.readouterr().out
    assert len(list(cache.rglob("*.npy"))) == 3
