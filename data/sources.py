"""Where a data set's images are: in files, or in memory. Nothing is decoded before an image is opened."""

import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Protocol

import numpy as np
from PIL import Image

from data.image_file import open_rgb


class ImageSource(Protocol):
    """Images in some layout, by index."""

    def open(self, index: int) -> Image.Image:
        """The image in mode RGB, or in mode F (float32, one channel in [0,1]) if the data are not photographs."""

    def name(self, index: int) -> str:
        """The image's path or key, which messages show."""

    def stamp(self, index: int) -> tuple:
        """A value that changes when the image changes on this machine; a cache of its pixels is named by it."""

    def identities(self, indices: Sequence[int]) -> list[tuple]:
        """What each image is, wherever it lies: its name below the data set's folder, and a checksum of its bytes."""


def is_below(path: str) -> bool:
    """Whether a relative path from a data set's file stays inside its folder."""
    return not PurePath(path).anchor and ".." not in PurePath(path).parts


def sampled_checksum(path: Path) -> tuple[int, int]:
    """A file's size, and the CRC-32 of 4096 bytes each from its start, middle and end: cheap also for large files."""
    with path.open("rb", buffering=0) as file:
        size, checksum = path.stat().st_size, 0
        for start in (0, size // 2, max(0, size - 4096)):
            file.seek(start)
            checksum = zlib.crc32(file.read(4096), checksum)
    return size, checksum


class ImageFiles:
    """Image files below a folder; `paths` are relative to it."""

    def __init__(self, root: Path, paths: Sequence[str]):
        self.root, self.paths = root, list(paths)
        self._known: dict[int, tuple] = {}

    def open(self, index: int) -> Image.Image:
        return open_rgb(self.root / self.paths[index])

    def name(self, index: int) -> str:
        return self.paths[index]

    def stamp(self, index: int) -> tuple:
        path = self.root / self.paths[index]
        try:
            status = path.stat()
        except (OSError, ValueError):  # ValueError: no path can look like this
            return (str(path), None)
        # A file put in its place may have its size and time, but neither its inode nor its time of change.
        return (str(path), status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)

    def identities(self, indices: Sequence[int]) -> list[tuple]:
        new = [index for index in indices if index not in self._known]
        with ThreadPoolExecutor(16) as pool:  # a file server answers many questions at a time
            self._known |= zip(new, pool.map(self._identity, new), strict=True)
        return [self._known[index] for index in indices]

    def _identity(self, index: int) -> tuple:
        path = self.paths[index]
        try:
            return (PurePath(path).as_posix(), *sampled_checksum(self.root / path))
        except (OSError, ValueError):  # decoding will name it
            return (path, None)


class ImageArrays:
    """Images in memory: (N,h,w,3) uint8, or (N,h,w) float32 in [0,1], which stand for three equal channels."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def open(self, index: int) -> Image.Image:
        return Image.fromarray(self.array[index])

    def name(self, index: int) -> str:
        return f"image {index}"

    def stamp(self, index: int) -> tuple:
        return (index,)

    def identities(self, indices: Sequence[int]) -> list[tuple]:
        return [(index, zlib.crc32(np.ascontiguousarray(self.array[index]))) for index in indices]
