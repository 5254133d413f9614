"""Damaged images: all of them are named, with their split entry and label, before a batch is given."""

from types import SimpleNamespace

import pytest
import torch
from make_data import encoded, make_coop, make_folders, make_lmdb, noise, write_lmdb
from PIL import Image
from torchvision.transforms import v2

from data.catalog import find_dataset
from data.loaders import load_data
from errors import UserError

FIXED, RANDOM = [v2.Resize((16, 16))], [v2.Resize(16), v2.RandomCrop(12)]


def loaders(name, cache_folder, workers=0, train=FIXED):
    how = {"batch_size": 4, "device": torch.device("cpu"), "workers": workers, "cache_folder": cache_folder}
    run = SimpleNamespace(loading=lambda batch_size: how)
    return load_data(find_dataset(name).read(), run, train=train, eval=FIXED)


def line_of(error, path):
    """The message's only line about `path`."""
    lines = [line for line in str(error.value).splitlines() if path in line]
    assert len(lines) == 1, f"{path} in {error.value}"
    return lines[0]


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])


def truncated_in_header(path):
    path.write_bytes(path.read_bytes()[:15])


def text(path):
    path.write_text("<html>404 Not Found</html>")


def missing(path):
    path.unlink()


def broken_link(path):
    path.unlink()
    path.symlink_to("elsewhere.jpg")


def zero_bytes(path):
    path.write_bytes(b"")


def folder_in_its_place(path):
    path.unlink()
    path.mkdir()


# what is wrong with which training image (label of its class folder), and a word of the reason given
DAMAGES = [
    (truncated, "Pink_Primrose/train_0.jpg", 0, "truncated"),
    (text, "bird-of-Paradise/train_1.jpg", 2, "it is HTML, XML or SVG; BMP, GIF, JPEG"),
    (missing, "banded/train_2.jpg", 1, "there is no such file"),
    (broken_link, "Pink_Primrose/train_1.jpg", 0, "it is a link to elsewhere.jpg, which is not there"),
    (zero_bytes, "banded/train_0.jpg", 1, "the file is empty"),
    (truncated_in_header, "Pink_Primrose/train_2.jpg", 0, ""),
    (folder_in_its_place, "bird-of-Paradise/train_2.jpg", 2, "directory"),
]

cached = pytest.mark.parametrize("cache", [".cache", None])


@cached
@pytest.mark.parametrize("damage, path, label, reason", DAMAGES, ids=lambda value: getattr(value, "__name__", ""))
def test_one_damaged_image(data_path, cache, damage, path, label, reason):
    make_coop(data_path)
    damage(data_path / "dtd/images" / path)
    with pytest.raises(UserError) as error:
        loaders("dtd", cache and data_path / cache)
    line = line_of(error, path)
    assert f"(label {label})" in line and reason in line
    assert "1 of 9 cannot be" in str(error.value) and "dtd train" in str(error.value)


def postscript(path):
    """A program, which Pillow would have Ghostscript run."""
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")


def gigapixels(path):
    png(path, 12000, 12000)


def narrow(path):
    """It would have 4.3 gigapixels when its shorter side is 256."""
    png(path, 1, 65535)


def png(path, width, height):
    """Black, of 1 bit a pixel: a few kB."""
    Image.new("1", (width, height)).save(path, "PNG")


HUGE = [(postscript, "it is PostScript"), (gigapixels, "144000000 pixels"), (narrow, "1 x 65535 pixels are too narrow")]


@cached
@pytest.mark.parametrize("damage, reason", HUGE, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.filterwarnings("error")
def test_images_that_are_not_opened(data_path, cache, damage, reason):
    make_coop(data_path)
    damage(data_path / "dtd/images/banded/train_0.jpg")
    with pytest.raises(UserError) as error:
        loaders("dtd", cache and data_path / cache, train=[v2.Resize(256), v2.RandomCrop(224)])
    assert reason in line_of(error, "banded/train_0.jpg")


@cached
@pytest.mark.filterwarnings("error")
def test_odd_metadata_is_no_matter(data_path, cache):
    """Pillow warns of each such image."""
    make_coop(data_path)
    path = data_path / "dtd/images/banded/train_0.jpg"
    exif = Image.Exif()
    exif[0x010F] = "maker"
    with Image.open(path) as image:
        image.save(path, exif=exif.tobytes()[:-12])
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(path) as image:
        image.getexif()
    assert sum(len(labels) for _, labels in loaders("dtd", cache and data_path / cache).train) == 9


@cached
@pytest.mark.parametrize("workers", [0, 2])
def test_all_damaged_images_are_named_together(data_path, cache, workers):
    make_coop(data_path)
    for damage, path, _, _ in DAMAGES:
        damage(data_path / "dtd/images" / path)
    with pytest.raises(UserError) as error:
        loaders("dtd", cache and data_path / cache, workers)
    message = str(error.value)
    assert "7 of 9 cannot be" in message
    for _, path, label, reason in DAMAGES:
        line = line_of(error, path)
        assert f"(label {label})" in line and reason in line
    assert "banded/train_1.jpg" not in message and "bird-of-Paradise/train_0.jpg" not in message  # these are whole
    left = [file.name for file in data_path.rglob("*") if file.suffix in (".tmp", ".pixels")]
    assert not [name for name in left if "train" in name or name.endswith(".tmp")]


@cached
@pytest.mark.parametrize("part", ["val", "test"])
def test_damage_in_other_splits(data_path, cache, part):
    make_coop(data_path)
    truncated(data_path / f"dtd/images/banded/{part}_0.jpg")
    with pytest.raises(UserError) as error:
        loaders("dtd", cache and data_path / cache)
    assert "(label 1)" in line_of(error, f"banded/{part}_0.jpg") and f"dtd {part}" in str(error.value)


@cached
def test_damage_in_several_splits_is_named_together(data_path, cache):
    # else the user would repair one split, start again, and only then see the message about the next one
    make_coop(data_path)
    for part in ("train", "val", "test"):
        truncated(data_path / f"dtd/images/banded/{part}_0.jpg")
    with pytest.raises(UserError) as error:
        loaders("dtd", cache and data_path / cache)
    for part in ("train", "val", "test"):
        assert "(label 1)" in line_of(error, f"banded/{part}_0.jpg")


@cached
@pytest.mark.parametrize("transform", [FIXED, RANDOM], ids=["fixed", "ragged"])
def test_more_images_than_one_chunk(data_path, cache, monkeypatch, transform):
    """Damage at the start, the middle and the end of a long split."""
    monkeypatch.setattr("data.cache._CHUNK", 4)
    make_folders(data_path, "mine", counts={"train": 5, "test": 1})
    for number, class_name in ((0, "Pink_Primrose"), (2, "banded"), (4, "bird-of-Paradise")):
        zero_bytes(data_path / f"mine/train/{class_name}/{number:03}.png")
    with pytest.raises(UserError) as error:
        loaders("mine", cache and data_path / cache, train=transform)
    assert "3 of 15 cannot be" in str(error.value)
    for label, path in enumerate(("Pink_Primrose/000.png", "banded/002.png", "bird-of-Paradise/004.png")):
        assert f"(label {label})" in line_of(error, path)
    assert not list(data_path.rglob("mine-train*"))  # neither a cache nor a part of one


@cached
def test_damaged_image_in_lmdb(data_path, cache):
    make_lmdb(data_path)
    image = encoded(noise(0), "JPEG")
    values = [(image, 0), (image[:200], 1), (b"", 2), (image, 0), (image, 1), (image, 2)]
    write_lmdb(data_path / "dtd/test.lmdb", values)
    with pytest.raises(UserError) as error:
        loaders("dtd", cache and data_path / cache)
    assert "2 of 6 cannot be" in str(error.value)
    for label in (1, 2):
        assert f"(label {label})" in line_of(error, f"test.lmdb key {label}")


@cached
def test_repaired_images_are_read(data_path, cache):
    make_coop(data_path)
    path = data_path / "dtd/images/banded/train_0.jpg"
    content = path.read_bytes()
    truncated(path)
    with pytest.raises(UserError):
        loaders("dtd", cache and data_path / cache)
    path.write_bytes(content)
    assert sum(len(labels) for _, labels in loaders("dtd", cache and data_path / cache).train) == 9
