"""From an image file to RGB: the formats and colour modes that are read, and which way is up."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Transpose

# Pillow knows more formats. One of them is a program: Pillow has Ghostscript execute PostScript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Raised when the same file gives other pixels than before: pixels that were cached then are not used any more.
DECODING = 2

# How a file begins, from which byte on: what people have under the name of an image.
_BEGINNINGS = (
    (0, b"\xff\xd8", "JPEG"),
    (0, b"\x89PNG", "PNG"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (8, b"WEBP", "WEBP"),
    (0, b"Pf", "PFM, of floating-point numbers"),  # Pillow 10 does not know it
    (0, b"PF", "PFM, of floating-point numbers"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphe", "HEIC"),
    (4, b"ftypmif1", "HEIF (HEIC or AVIF)"),
    (4, b"ftypmsf1", "HEIF (HEIC or AVIF)"),
    (4, b"ftyp", "a video (MP4 or QuickTime)"),
    (4, b"JXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"jP  ", "JPEG 2000"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (128, b"DICM", "DICOM"),
    (0, b"version https://git-lfs", "a pointer of Git LFS (`git lfs pull` fetches the image)"),
    (0, b"<", "HTML, XML or SVG"),
)
# By the EXIF orientation. 1 is upright.
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def open_rgb(file: Path | BinaryIO) -> Image.Image:
    """An image of one of FORMATS in mode RGB, turned upright. The file's ending does not matter.

    Raises:
        ValueError: the file has another format, or grey values that have no fixed black and white.
        OSError: the file cannot be read, or is damaged. (Pillow raises other kinds, too.)
    """
    try:
        image = Image.open(file, formats=FORMATS)
    except FileNotFoundError:
        os.stat(file)  # its error has the file's own name; Pillow 10 gives the name of what a link leads to
        raise
    except UnidentifiedImageError:
        raise ValueError(_what_it_is(file)) from None
    with image:
        return upright(to_rgb(image), image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any colour mode (grey of 1, 8 or 16 bits, palette, alpha, CMYK) to RGB. Alpha is dropped, not blended.

    Raises:
        ValueError: grey values of another type, such as float32. No file says which of them are black and white.
    """
    # Pillow gives 16-bit PPM as 32-bit integers, and before version 11 also PNG. In TIFF these are 32 bits or signed.
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        kind = "floating-point numbers" if image.mode == "F" else "32-bit or signed integers"
        raise ValueError(f"its grey values are {kind}, without a fixed black and white: save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey: PIL would clip it at 255 instead of scaling it
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA")  # a palette may carry its own transparency
    return image.convert("RGB")


def upright(pixels: Image.Image, opened: Image.Image) -> Image.Image:
    """The pixels of an opened file, turned as its EXIF orientation says. Pillow itself has turned those of a TIFF."""
    try:
        orientation = None if opened.format == "TIFF" else opened.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged metadata, of which Pillow raises many kinds; pixels without a turn are what it gives
        orientation = None
    return pixels.transpose(_TURNS[orientation]) if orientation in _TURNS else pixels


def _what_it_is(file: Path | BinaryIO) -> str:
    """Why Pillow does not open a file, from its first bytes."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            begin = opened.read(132)
    else:
        file.seek(0)
        begin = file.read(132)
    if not begin:
        return "the file is empty"
    kind = next((kind for at, bytes_, kind in _BEGINNINGS if begin.startswith(bytes_, at)), None)
    if kind in FORMATS:
        return f"it begins like {kind}, but is damaged or of a kind that Pillow does not read"
    return f"{f'it is {kind}' if kind else 'cannot identify its format'}; {', '.join(FORMATS)} are read"


@contextmanager
def quiet() -> Iterator[None]:
    """Silences Pillow's warnings of odd metadata, on which pixels do not depend. An image of more than 89 million
    pixels, of which Pillow warns as a decompression bomb, becomes an error. The whole process is silenced, so only one
    thread at a time may call this.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
