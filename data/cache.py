"""Every image is decoded once: before training, by all cores, into one file of pixels that later runs map.

The same pass finds all damaged images together.

The file holds the pixels of all images (uint8) one after the other, then their N x 2 heights and widths (uint32, little
endian), then the CRC-32 of all that (uint32, little endian). The CRC is compared whenever the file is opened. A machine
that went down or a failing disk may leave holes in the file that nobody would see.
"""

import hashlib
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import PIL
from filelock import Timeout
from PIL import Image
from tqdm import tqdm

from data.image_file import DECODING, quiet
from data.splits import Split
from data.transforms import decode, describe_transforms
from errors import UserError, in_short, printable
from locks import locked

_CHUNK = 256


class DamagedImages(UserError):
    """Images that cannot be decoded; `lines` names them, split by split."""

    def __init__(self, lines: list[str]):
        super().__init__(
            "Every image is read before training starts.",
            "\n".join(lines),
            "Replace these files or leave them out, then type the command again.",
        )
        self.lines = lines


class RaggedPixels:
    """Images of several sizes, by position: (h,w,3) uint8, views of `flat`; `sizes` (N,2) int64 are h and w."""

    def __init__(self, flat: np.ndarray, sizes: np.ndarray):
        self.flat, self.sizes = flat, sizes
        self._ends = np.cumsum(3 * sizes.prod(1)).tolist()

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, position: int) -> np.ndarray:
        (height, width), end = self.sizes[position].tolist(), self._ends[position]
        return self.flat[end - 3 * height * width : end].reshape(height, width, 3)


Fixed = Sequence[Callable]  # the fixed part of a list of transforms


def cached_pixels(split: Split, fixed: Fixed, folder: Path, label: str) -> np.ndarray | RaggedPixels | None:
    """The split's pixels after the fixed part of its transforms, mapped from a file in `folder`.

    The file's name tells what went in: images (path, size, time), labels, transforms, Pillow's version, DECODING. The
    file is written under a temporary name and renamed, so a file under its own name is whole. A damaged file is made
    again.

    Args:
        label: what messages and the progress bar call the split.

    Returns:
        (N,h,w,3) uint8, or RaggedPixels if the images' sizes differ. None if the file cannot be written: the reason is
        printed, and the images are decoded in every epoch.

    Raises:
        DamagedImages: some images cannot be decoded; names them all.
    """
    file = folder / f"{label.replace(' ', '-').replace('/', '-')}-{_fingerprint(split, fixed)}.pixels"
    with suppress(OSError, ValueError):  # not there, or damaged: made again below
        return _mapped(file, len(split))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _one_process(file, label):
            with suppress(OSError, ValueError):  # another process may have made it
                return _mapped(file, len(split))
            _write(file, split, fixed, label)
            return _mapped(file, len(split))
    except OSError as error:
        print(f"{label}: no cache in {folder} ({error}); its images will be decoded every epoch, which is slower.")
        check_images(split, fixed, label)
        return None


@contextmanager
def _one_process(file: Path, label: str) -> Iterator[None]:
    """One of several processes that want a file makes it; the others wait and then find it.

    Where the file system has no locks, each of them makes it under a temporary name of its own. The last one stays.
    """
    name = file.with_suffix(".lock")
    try:
        holding = locked(name, seconds=0)
    except Timeout:
        print(f"{label}: another process is decoding it; waiting for that process.", flush=True)
        holding = locked(name)
    with holding as lock:
        try:
            for left in file.parent.glob(f"{file.stem}.*.tmp") if lock else ():  # by a process that was killed
                left.unlink()
            yield
        finally:
            with suppress(OSError):
                os.unlink(name)  # a later process makes another lock and finds the file


def _write(file: Path, split: Split, fixed: Fixed, label: str) -> None:
    """Decodes the split's images into a file that is whole once it has its name.

    Raises:
        OSError: the file cannot be written.
        DamagedImages: some images cannot be decoded.
    """
    temporary = file.with_suffix(f".{secrets.token_hex(8)}.tmp")
    free, needed = shutil.disk_usage(file.parent).free, _bytes_needed(len(split), fixed)
    if free < 1.02 * needed:
        raise OSError(f"{free / 1e9:.2f} GB free, about {needed / 1e9:.2f} GB needed")
    sizes, checksum = [], 0
    try:
        with temporary.open("wb") as out:
            for pixels in _decoded(split, fixed, label):
                out.write(pixels)
                checksum = zlib.crc32(pixels, checksum)
                sizes.append(pixels.shape[:2])
            checksum = zlib.crc32(np.array(sizes, "<u4"), checksum)
            out.write(np.array([*np.ravel(sizes), checksum], "<u4"))
        os.replace(temporary, file)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _bytes_needed(count: int, fixed: Fixed) -> int:
    """Length of the file of `count` images; an estimate if their sizes vary, for photographs of 640 x 480 pixels."""
    return count * (decode(fixed, Image.new("RGB", (640, 480))).nbytes + 8) + 4


def _mapped(file: Path, count: int) -> np.ndarray | RaggedPixels:
    """The pixels of `count` images; one array (N,h,w,3) if all sizes are equal.

    Raises:
        OSError, ValueError: there is no such file, or it is not whole.
    """
    content = np.memmap(file, np.uint8, mode="r")
    flat, sizes, checksum = np.split(content, [-8 * count - 4, -4])
    sizes = np.frombuffer(sizes.tobytes(), "<u4").reshape(count, 2).astype(np.int64)
    fits = sizes.min() > 0 and 3 * sizes.astype(float).prod(1).sum() == len(flat)  # integers would overflow
    if not fits or zlib.crc32(content[:-4]) != int.from_bytes(checksum, "little"):
        raise ValueError(f"{file} is not whole")
    return flat.reshape(count, *sizes[0], 3) if (sizes == sizes[0]).all() else RaggedPixels(flat, sizes)


def check_images(split: Split, fixed: Fixed, label: str) -> None:
    """Decodes every image once and keeps none.

    Raises:
        DamagedImages: some images cannot be decoded; names them all.
    """
    for _ in _decoded(split, fixed, label):
        pass


def _decoded(split: Split, fixed: Fixed, label: str) -> Iterator[np.ndarray]:
    """The pixels of the split's images in order; at the end, it prints how many of them are empty.

    Raises:
        DamagedImages: at the end, if any image cannot be decoded.
    """
    damaged: list[str] = []
    empty: list[str] = []

    def pixels_of(position: int) -> np.ndarray | None:
        try:
            pixels = decode(fixed, split.open(position))
        except Exception as error:  # Pillow's decoders raise many kinds
            name = printable(split.name(position)[:300])
            damaged.append(f"  {name}  (label {split.labels[position]}): {reason_of(error)}")
            return None
        if looks_empty(pixels):
            empty.append(printable(split.name(position)[:300]))
        return pixels

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(split), desc=f"decoding {label}", leave=False) as bar,
    ):
        for start in range(0, len(split), _CHUNK):
            with quiet():
                chunk = list(pool.map(pixels_of, range(start, min(start + _CHUNK, len(split)))))
            bar.update(len(chunk))
            if not damaged:
                yield from chunk
    if damaged:
        raise DamagedImages([f"{label}: {len(damaged)} of {len(split)} cannot be read:", *sorted(damaged)])
    tell_empty(label, empty, len(split))


def tell_empty(label: str, empty: list[str], count: int) -> None:
    """Prints which of `count` images look empty, if any do."""
    if empty:
        print(
            f"{label}: {len(empty)} of {count} images look empty: all of their pixels are equal, or no value is above"
            f" 15 of 255 ({in_short(sorted(empty))}). 16-bit files are divided by 256; scale those that hold fewer bits"
            " up first.",
            flush=True,
        )


def looks_empty(pixels: np.ndarray) -> bool:
    """Whether all pixels (h,w,3) uint8 are equal, or too dark to see: 12 bits in a 16-bit file give 0 to 15."""
    values = pixels.reshape(-1)
    return bool(values.max() < 16 or (values[3:] == values[:-3]).all())


def reason_of(error: Exception) -> str:
    """Why an image cannot be read, in one line."""
    if isinstance(error, FileNotFoundError):
        if error.filename and os.path.islink(error.filename):
            return f"it is a link to {os.readlink(error.filename)}, which is not there"
        return "there is no such file"
    return (str(error) or type(error).__name__).splitlines()[0][:300]


def _fingerprint(split: Split, fixed: Fixed) -> str:
    stamps = [split.source.stamp(index) for index in split.indices.tolist()]
    content = [PIL.__version__, DECODING, describe_transforms(fixed), split.labels.tolist(), stamps]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]
