"""Every image is decoded once: before training, by all cores, into one file of pixels that later runs map.

That pass is also where damaged images are found, all of them together.

The file holds the pixels of all images (uint8), one image after the other, then their N x 2 heights and widths, and
the CRC-32 of all that (uint32, little endian). It is compared whenever the file is opened: where a machine went down or
a disk is failing, there may be holes in it that nobody would see.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import PIL
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from data.splits import Split, quiet
from data.transforms import Transform
from errors import UserError

_CHUNK = 256


class DamagedImages(UserError):
    """Images that cannot be decoded: `lines` names them, a split after the other."""

    def __init__(self, lines: list[str]):
        super().__init__(
            "Every image is read before anything else starts.",
            "\n".join(lines),
            "Replace these files or leave them out, then type the command again.",
        )
        self.lines = lines


class RaggedPixels:
    """Images of several sizes, by position: (h,w,3) uint8, views of `flat`; `sizes` (N,2) int64 are h and w.

    `flat` is an array or a tensor, on any device.
    """

    def __init__(self, flat: np.ndarray | Tensor, sizes: np.ndarray):
        self.flat, self.sizes = flat, sizes
        self._ends = np.cumsum(3 * sizes.prod(1)).tolist()

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, position: int) -> np.ndarray | Tensor:
        (height, width), end = self.sizes[position].tolist(), self._ends[position]
        return self.flat[end - 3 * height * width : end].reshape(height, width, 3)


def cached_pixels(split: Split, transform: Transform, folder: Path, label: str) -> np.ndarray | RaggedPixels | None:
    """The split's pixels after the transform's fixed part, mapped from a file in `folder`.

    The file is named by what went in: images (path, size, time), labels, transform, Pillow's version. It is written
    under a temporary name and renamed, so a file under its own name is whole; one damaged later is made again.

    Args:
        label: what messages and the progress bar call the split.

    Returns:
        (N,h,w,3) uint8, or RaggedPixels where the images' sizes differ. None where the file cannot be written (the
        reason is printed): the images are then decoded every epoch.

    Raises:
        DamagedImages: some images cannot be decoded; names them all.
    """
    name = f"{label.replace(' ', '-').replace('/', '-')}-{transform.size}-{_fingerprint(split, transform)}.pixels"
    file = folder / name
    with suppress(OSError, ValueError):  # not there, or damaged: made again below
        return _mapped(file, len(split), transform)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _one_process(file, label):
            with suppress(OSError, ValueError):  # the one before may have made it
                return _mapped(file, len(split), transform)
            _write(file, split, transform, label)
            return _mapped(file, len(split), transform)
    except OSError as error:
        print(f"{label}: no cache in {folder} ({error}); its images will be decoded every epoch, which is slower.")
        check_images(split, transform, label)
        return None


@contextmanager
def _one_process(file: Path, label: str) -> Iterator[None]:
    """Of several processes that want a file, one makes it; the others wait, and find it."""
    lock = FileLock(file.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{label}: another process is decoding it; waiting for that.", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(lock.lock_file)  # who comes later makes another, and finds the file
        lock.release()


def _write(file: Path, split: Split, transform: Transform, label: str) -> None:
    """Decodes the split's images into a file that is whole once it has its name.

    Raises:
        OSError: it cannot be written.
        DamagedImages: some images cannot be decoded.
    """
    for left in file.parent.glob(f"{file.stem}.*.tmp"):  # by a process that was killed
        left.unlink()
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    free, needed = shutil.disk_usage(file.parent).free, _bytes_needed(len(split), transform)
    if free < 1.02 * needed:
        raise OSError(f"{free / 1e9:.2f} GB free, about {needed / 1e9:.2f} GB needed")
    sizes, checksum = [], 0
    try:
        with temporary.open("wb") as out:
            for pixels in _decoded(split, transform, label):
                out.write(pixels)
                checksum = zlib.crc32(pixels, checksum)
                sizes.append(pixels.shape[:2])
            checksum = zlib.crc32(np.array(sizes, "<u4"), checksum)
            out.write(np.array([*np.ravel(sizes), checksum], "<u4"))
        os.replace(temporary, file)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _bytes_needed(count: int, transform: Transform) -> int:
    """Length of the file of `count` images; an estimate where their sizes vary, for photographs of 4:3."""
    side = transform.decoded_side
    return count * (3 * (side**2 if side else transform.size**2 * 4 // 3) + 8) + 4


def _mapped(file: Path, count: int, transform: Transform) -> np.ndarray | RaggedPixels:
    """The pixels of `count` images; one array (N,h,w,3) where all sizes are equal.

    Raises:
        OSError, ValueError: there is no such file, or it is not whole.
    """
    content = np.memmap(file, np.uint8, mode="r")
    flat, sizes, checksum = np.split(content, [-8 * count - 4, -4])
    sizes = np.frombuffer(sizes.tobytes(), "<u4").reshape(count, 2).astype(np.int64)
    right = sizes.min(1) == transform.size if transform.decoded_side is None else sizes == transform.decoded_side
    fits = right.all() and 3 * sizes.prod(1).sum() == len(flat)
    if not fits or zlib.crc32(content[:-4]) != int.from_bytes(checksum, "little"):
        raise ValueError(f"{file} is not whole")
    return flat.reshape(count, *sizes[0], 3) if (sizes == sizes[0]).all() else RaggedPixels(flat, sizes)


def check_images(split: Split, transform: Transform, label: str) -> None:
    """Decodes every image once and keeps none.

    Raises:
        DamagedImages: some images cannot be decoded; names them all.
    """
    for _ in _decoded(split, transform, label):
        pass


def _decoded(split: Split, transform: Transform, label: str) -> Iterator[np.ndarray]:
    """The pixels of the split's images in order; raises at the end if any image could not be decoded."""
    damaged: list[str] = []

    def decode(position: int) -> np.ndarray | None:
        try:
            return transform.decode(split.open(position))
        except Exception as error:  # Pillow's decoders raise many kinds
            damaged.append(f"  {split.name(position)[:300]}  (label {split.labels[position]}): {_reason(error)}")
            return None

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(split), desc=f"decoding {label}", leave=False) as bar,
    ):
        for start in range(0, len(split), _CHUNK):
            with quiet():
                chunk = list(pool.map(decode, range(start, min(start + _CHUNK, len(split)))))
            bar.update(len(chunk))
            if not damaged:
                yield from chunk
    if damaged:
        raise DamagedImages([f"{label}: {len(damaged)} of {len(split)} cannot be read:", *sorted(damaged)])


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return (str(error) or type(error).__name__).splitlines()[0][:300]


def _fingerprint(split: Split, transform: Transform) -> str:
    content = [
        PIL.__version__,
        [transform.size, transform.decoded_side, transform.shorter, transform.bicubic],
        split.labels.tolist(),
        [split.source.stamp(index) for index in split.indices.tolist()],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]
