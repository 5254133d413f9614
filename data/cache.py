"""Every image is decoded once: before training, by all cores, into one file of pixels that later runs map.

That pass is also where damaged images are found, all of them together.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
from tqdm import tqdm

from data.splits import Split
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


def cached_pixels(split: Split, transform: Transform, folder: Path, label: str) -> np.ndarray | None:
    """The split's pixels after the transform's fixed part, (N,size,size,3) uint8, mapped from a file in `folder`.

    The file is named by what went in: images (path, size, time), labels, transform, Pillow's version. It is written
    under a temporary name and renamed, so a file under its own name is whole; one cut off later is made again.

    Args:
        label: what messages and the progress bar call the split.

    Returns:
        None where the file cannot be written (the reason is printed): the images are then decoded every epoch.

    Raises:
        DamagedImages: some images cannot be decoded; names them all.
    """
    shape = (len(split), transform.size, transform.size, 3)
    file = folder / f"{label.replace(' ', '-').replace('/', '-')}-{transform.size}-{_fingerprint(split, transform)}.npy"
    try:
        pixels = np.lib.format.open_memmap(file, mode="r")
        if pixels.shape == shape and pixels.dtype == np.uint8:
            return pixels
    except (OSError, ValueError):
        pass  # not there, or cut off: made again below
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < 1.02 * np.prod(shape, dtype=np.int64):
            raise OSError(f"{free / 1e9:.2f} GB free, {np.prod(shape, dtype=np.int64) / 1e9:.2f} GB needed")
        with temporary.open("wb") as out:
            np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for chunk in _decoded(split, transform, label):
                out.write(chunk.tobytes())
        os.replace(temporary, file)
        return np.lib.format.open_memmap(file, mode="r")
    except OSError as error:
        print(f"{label}: no cache in {folder} ({error}); its images will be decoded every epoch, which is slower.")
        check_images(split, transform, label)
        return None
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_images(split: Split, transform: Transform, label: str) -> None:
    """Decodes every image once and keeps none.

    Raises:
        DamagedImages: some images cannot be decoded; names them all.
    """
    for _ in _decoded(split, transform, label):
        pass


def _decoded(split: Split, transform: Transform, label: str) -> Iterator[np.ndarray]:
    """Chunks (n,size,size,3) of the split's pixels in order; raises at the end if any image could not be decoded."""
    damaged: list[str] = []

    def decode(position: int) -> np.ndarray:
        try:
            return transform.decode(split.open(position))
        except Exception as error:  # Pillow's decoders raise many kinds
            damaged.append(f"  {split.name(position)}  (label {split.labels[position]}): {_reason(error)}")
            return np.zeros((transform.size, transform.size, 3), np.uint8)

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(split), desc=f"decoding {label}", leave=False) as bar,
    ):
        for start in range(0, len(split), _CHUNK):
            chunk = list(pool.map(decode, range(start, min(start + _CHUNK, len(split)))))
            bar.update(len(chunk))
            if not damaged:
                yield np.stack(chunk)
    if damaged:
        raise DamagedImages([f"{label}: {len(damaged)} of {len(split)} cannot be read:", *sorted(damaged)])


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return (str(error) or type(error).__name__).splitlines()[0]


def _fingerprint(split: Split, transform: Transform) -> str:
    content = [
        PIL.__version__,
        transform.size,
        split.labels.tolist(),
        [split.source.stamp(index) for index in split.indices.tolist()],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]
