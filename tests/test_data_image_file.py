"""From image files to RGB: which way is up, grey values of every type, other formats, images that look empty."""

import io
import random

import numpy as np
import pytest
import torch
from make_data import encoded, make_coop, make_folders, noise
from PIL import ExifTags, Image, ImageOps

import data.cache
import data.image_file
from data.cache import cached_pixels, looks_empty
from data.catalog import find_dataset
from data.image_file import open_rgb
from data.loaders import build_data, build_loader
from data.sources import ImageFiles
from data.splits import whole
from errors import UserError

# 3 x 2 blocks of 16 x 16 pixels, which JPEG keeps apart, and what a viewer shows of them by orientation
BLOCKS = np.array([[0, 50, 100], [150, 200, 250]], np.uint8)
SHOWN = {
    1: BLOCKS,
    2: BLOCKS[:, ::-1],
    3: BLOCKS[::-1, ::-1],
    4: BLOCKS[::-1],
    5: BLOCKS.T,
    6: [[150, 0], [200, 50], [250, 100]],  # the file's left column is on top
    7: BLOCKS[::-1, ::-1].T,
    8: [[100, 250], [50, 200], [0, 150]],  # the file's right column is on top
}


def blocks_with(orientation, kind):
    """An image file of BLOCKS whose EXIF says this."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    how = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif}
    file = io.BytesIO()
    Image.fromarray(BLOCKS.repeat(16, 0).repeat(16, 1)).convert("RGB").save(file, kind, **how)
    file.seek(0)
    return file


def blocks_of(image):
    return np.asarray(image.convert("L"))[8::16, 8::16].astype(int)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", SHOWN)
def test_orientation(kind, orientation):
    """Every format is turned, and turned once."""
    image = open_rgb(blocks_with(orientation, kind))
    assert image.mode == "RGB" and image.size == ((48, 32) if orientation < 5 else (32, 48))
    assert np.abs(blocks_of(image) - np.asarray(SHOWN[orientation], int)).max() <= 3
    if kind != "TIFF":
        with Image.open(blocks_with(orientation, kind)) as opened:
            assert ImageOps.exif_transpose(opened).convert("RGB").tobytes() == image.tobytes()


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientation_that_does_not_exist(orientation):
    assert open_rgb(blocks_with(orientation, "PNG")).size == (48, 32)


@pytest.mark.parametrize(
    "content", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff"]
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_turns_nothing(content):
    for kind in ("JPEG", "PNG", "WEBP"):
        file = io.BytesIO()
        Image.fromarray(noise(0)).save(file, kind, exif=content, **({"lossless": True} if kind == "WEBP" else {}))
        assert open_rgb(file).size == (24, 20)


def test_a_truncated_image_with_orientation_is_damaged():
    content = blocks_with(6, "JPEG").getvalue()
    with pytest.raises(OSError, match="truncated"):
        open_rgb(io.BytesIO(content[:-20]))


def test_another_decoding_is_another_cache(data_path, cache, monkeypatch):
    make_coop(data_path)
    split = find_dataset("dtd").read().train
    cached_pixels(split, [], cache, "dtd train")
    monkeypatch.setattr(data.cache, "DECODING", data.image_file.DECODING + 1)
    cached_pixels(split, [], cache, "dtd train")
    assert len(list(cache.iterdir())) == 2


def tiff(values):
    return encoded(np.array([values]), "TIFF")


def signed_tiff(values):
    """Signed 16 bits, as heights are kept: a TIFF of 16 bits whose tag 339 says so."""
    file = io.BytesIO()
    Image.fromarray(np.array([values], np.uint16)).save(file, "TIFF", tiffinfo={339: 2})
    return file.getvalue()


NO_RANGE = {
    "float32 TIFF": (tiff(np.float32([0.25, 1])), "floating-point numbers"),
    "int32 TIFF": (tiff(np.int32([3, 70000])), "32-bit or signed integers"),
    "int16 TIFF": (signed_tiff([3, 700]), "32-bit or signed integers"),
}


@pytest.mark.parametrize("content, words", NO_RANGE.values(), ids=NO_RANGE)
def test_grey_values_without_a_range_are_refused(content, words):
    with pytest.raises(ValueError, match=f"{words}, .* save it with 8 or 16 bits"):
        open_rgb(io.BytesIO(content))


@pytest.mark.parametrize("begin, channels", [(b"Pf", 1), (b"PF", 3)], ids=["grey", "colour"])
def test_pfm_is_refused(begin, channels):
    """Pillow 10 reads none, later ones read grey."""
    content = begin + b"\n2 1\n-1.0\n" + np.linspace(0, 1, 2 * channels).astype("<f4").tobytes()
    with pytest.raises(ValueError, match="floating-point numbers"):
        open_rgb(io.BytesIO(content))


@pytest.mark.parametrize("largest, values", [(65535, [0, 512, 65535]), (4095, [0, 32, 4095])])
def test_pgm_of_more_than_8_bits(largest, values):
    """A PGM file says which value is white. 512 of 65535, and 32 of 4095, are 2 of 255."""
    content = b"P5 3 1 %d\n" % largest + np.array(values, ">u2").tobytes()
    assert np.asarray(open_rgb(io.BytesIO(content)))[0, :, 0].tolist() == [0, 2, 255]


def ftyp(brand):
    return b"\0\0\0\x1cftyp" + brand + bytes(200)


OTHER_FORMATS = {
    "HEIC": (ftyp(b"heic"), "it is HEIC; BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP are read"),
    "AVIF": (ftyp(b"avif"), "it is AVIF; BMP"),
    "HEIF": (ftyp(b"mif1"), "it is HEIF "),
    "video": (ftyp(b"isom"), "it is a video"),
    "web page": (b"<!DOCTYPE html><title>404</title>", "it is HTML, XML or SVG"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    "DICOM": (bytes(128) + b"DICM" + bytes(100), "it is DICOM"),
    "PDF": (b"%PDF-1.7", "it is PDF"),
    "TIFF of floats": (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "it begins like TIFF, but is damaged or of a kind"),
    "nothing": (b"", "the file is empty"),
    "noise": (random.Random(0).randbytes(500), "cannot identify its format; BMP"),
}


@pytest.mark.parametrize("content, words", OTHER_FORMATS.values(), ids=OTHER_FORMATS)
def test_other_formats_are_named(tmp_path, content, words):
    make_folders(tmp_path, "mine", counts={"train": 1, "test": 1})
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    for file in (path, io.BytesIO(content)):
        with pytest.raises(ValueError) as error:
            open_rgb(file)
        assert words in str(error.value)


def grey(values, kind=np.uint8):
    return np.resize(np.array(values, kind), (6, 5))


EMPTY = {
    "black": (grey([0]), True),
    "white": (grey([255]), True),
    "one colour": (np.full((6, 5, 3), (9, 200, 70), np.uint8), True),
    "12 bits in 16": (grey([0, 4095, 700], np.uint16), True),
    "8 bits in 16": (grey([0, 255, 70], np.uint16), True),
    "one value above 15": (grey([0] * 29 + [16]), False),
    "nearly white": (grey([255] * 29 + [254]), False),
    "16 bits": (grey([0, 4096], np.uint16), False),
    "two colours": (np.resize(np.uint8([[9, 200, 70], [200, 70, 9]]), (6, 5, 3)), False),
}


@pytest.mark.parametrize("pixels, empty", EMPTY.values(), ids=EMPTY)
def test_what_looks_empty(pixels, empty):
    assert looks_empty(np.asarray(open_rgb(io.BytesIO(encoded(pixels))))) is empty


@pytest.mark.parametrize("cache", [".cache", None])
def test_empty_images_are_counted_once(data_path, cache, capsys):
    make_folders(data_path, "mine", counts={"train": 3, "test": 1})
    for number in range(3):
        for class_name in ("banded", "Pink_Primrose"):
            dark = grey([0, 200, 70 + 10 * number + len(class_name)], np.uint16)
            Image.fromarray(dark).save(data_path / f"mine/train/{class_name}/00{number}.png")
    how = {"batch_size": 4, "device": torch.device("cpu"), "workers": 0, "cache_folder": cache and data_path / cache}
    built = build_data(find_dataset("mine").read(), train=[], eval=[], **how) if cache else None
    if not cache:  # images of several sizes make no batch
        built = build_loader(find_dataset("mine").read().train, [], "mine train", **how)
    assert built
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("mine train: 6 of 9 images look empty") and "scale" in line
    assert "(Pink_Primrose/000.png, Pink_Primrose/001.png" in line and "banded/001.png and 1 more)" in line
    if cache:
        build_data(find_dataset("mine").read(), train=[], eval=[], **how)
        assert capsys.readouterr().out == ""


def test_images_that_cannot_be_read_say_what_to_do(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(np.float32([0.25, 1])))
    (tmp_path / "b.jpg").write_bytes(ftyp(b"heic"))
    how = {"batch_size": 4, "device": torch.device("cpu"), "workers": 0, "cache_folder": None}
    with pytest.raises(UserError) as error:
        build_loader(whole(ImageFiles(tmp_path, ["a.tif", "b.jpg"]), [0, 0]), [], "your images", **how)
    assert "a.tif  (label 0): its grey values are floating" in str(error.value)
    assert "b.jpg  (label 0): it is HEIC" in str(error.value)
