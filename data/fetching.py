"""From positions in a split to its images: gathered from pixels in memory, or decoded and varied one by one."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.cache import RaggedPixels, cached_pixels, check_images, reason_of
from data.crops import FlatPixels, crop_and_flip
from data.image_file import quiet
from data.sources import ImageArrays
from data.splits import Split
from data.transforms import decode, keeps_size, split_transforms, vary
from errors import UserError

# Elsewhere all cached pixels would be sent to every worker, and a script's own functions refused.
_FORKS = sys.platform == "linux"
# batches of positions (B,) int64 and the part of each -> the images of each part, as `Loader` takes them
Fetch = Callable[[list[Tensor], slice], Iterator[Tensor]]


def fetcher(
    split: Split,
    transforms: Sequence[Callable],
    label: str,
    device: torch.device,
    workers: int | None,
    cache_folder: Path | None,
    gpu_cache_fraction: float,
) -> Fetch:
    """How the images of a split come in; arguments and errors are those of `build_loader`."""
    fixed, per_epoch = split_transforms(transforms)
    pixels = _pixels(split, fixed, cache_folder, label)
    if isinstance(pixels, np.ndarray) and not per_epoch:
        return gather(_on_device(pixels, device, gpu_cache_fraction), device)
    if pixels is not None and (fetch := _cut(pixels, per_epoch, device, gpu_cache_fraction)):
        return fetch
    if workers is None:
        workers = _enough_workers(None if pixels is None else len(split), device)
    pixels = _Decoded(split, fixed) if pixels is None else pixels
    return _one_by_one(pixels, per_epoch, workers, device.type == "cuda", label)


def _enough_workers(cached: int | None, device: torch.device) -> int:
    """As many as pay. A random transform takes 0.1 ms, so that workers pay only for many `cached` images."""
    if device.type == "cpu" or (cached is not None and not _FORKS):
        return 0
    return min(8, os.cpu_count() or 1, 8 if cached is None else cached // 2000)


def _pixels(
    split: Split, fixed: Sequence[Callable], cache_folder: Path | None, label: str
) -> np.ndarray | RaggedPixels | None:
    """All pixels of a split, mapped or in memory; None: to be decoded in every epoch."""
    if isinstance(split.source, ImageArrays):
        array = split.source.array
        # An array needs no decoding. So a file of its resized images would save little.
        return array[split.indices] if cache_folder and keeps_size(fixed, *array.shape[1:3]) else None
    if cache_folder is None:
        check_images(split, fixed, label)
        return None
    return cached_pixels(split, fixed, cache_folder, label)


def _on_device(pixels: np.ndarray, device: torch.device, gpu_cache_fraction: float) -> Tensor:
    """The pixels as a tensor: in CUDA's memory if they fit this fraction of what is free there, else as mapped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a mapped file's memory must not be written to, and is not
        tensor = torch.from_numpy(pixels)
    if (
        device.type == "cuda"
        and gpu_cache_fraction
        and pixels.nbytes <= gpu_cache_fraction * torch.cuda.mem_get_info(device)[0]
    ):
        return tensor.to(device)
    return tensor


def gather(values: Tensor, device: torch.device) -> Fetch:
    """Whole batches at once, of pixels (N,h,w,3) or (N,h,w) without random transforms, or of features (N,D)."""

    def fetch(batches: list[Tensor], part: slice) -> Iterator[Tensor]:
        batches = [positions[part] for positions in batches]
        ordered = torch.cat(batches).to(values.device)  # all at once: a copy makes the device wait
        for positions in ordered.split([len(batch) for batch in batches]):
            yield _pinned(_channels_first(values[positions]), device)

    return fetch


def _cut(
    pixels: np.ndarray | RaggedPixels, per_epoch: Sequence[Callable], device: torch.device, gpu_cache_fraction: float
) -> Fetch | None:
    """Whole batches at once, cropped and flipped where the network computes.

    None: the random transforms are others, or the pixels do not fit into CUDA's memory: workers then cut them.
    """
    sizes = pixels.sizes if isinstance(pixels, RaggedPixels) else np.array([pixels.shape[1:3]])
    if not per_epoch or (how := crop_and_flip(per_epoch, sizes)) is None:
        return None
    images = FlatPixels(pixels, lambda flat: _on_device(flat, device, gpu_cache_fraction))
    if images.flat.device.type != device.type:
        return None

    def fetch(batches: list[Tensor], part: slice) -> Iterator[Tensor]:
        seeds = _seeds(batches).split([len(positions) for positions in batches])
        for positions, own in zip(batches, seeds, strict=True):
            yield _channels_first(images.cut(positions[part], own[part], how))

    return fetch


def _seeds(batches: list[Tensor]) -> Tensor:
    """A seed for each image of the epoch. So it does not matter who transforms which image, and when."""
    return torch.randint(2**32, (sum(map(len, batches)),))


def _channels_first(batch: Tensor) -> Tensor:
    """(B,h,w,3) -> (B,3,h,w), (B,h,w) -> (B,1,h,w), without a copy; features (B,D) as they are."""
    return batch.permute(0, 3, 1, 2) if batch.ndim == 4 else batch[:, None] if batch.ndim == 3 else batch


def _pinned(batch: Tensor, device: torch.device) -> Tensor:
    """The batch, in memory from which CUDA copies while this process goes on. Its strides stay."""
    return batch.pin_memory() if device.type == "cuda" and not batch.is_cuda else batch


class _Decoded:
    """Pixels by position, decoded each time."""

    def __init__(self, split: Split, fixed: Sequence[Callable]):
        self.split, self.fixed = split, fixed

    def __getitem__(self, position: int) -> np.ndarray:
        return decode(self.fixed, self.split.open(position))


class _Images(Dataset):
    """What a worker sees: (position, seed) of each image of a batch -> a list of images (3,h,w)."""

    def __init__(self, pixels: np.ndarray | RaggedPixels | _Decoded, per_epoch: Sequence[Callable]):
        self.pixels, self.per_epoch = pixels, per_epoch

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Tensor]:
        with quiet(), torch.random.fork_rng(devices=[]):  # once a batch
            return [self._one(position, seed) for position, seed in keys]

    def _one(self, position: int, seed: int) -> Tensor:
        # A copy: a transform may write to its argument, and writing to a mapped file would end the process.
        pixels = torch.from_numpy(np.array(self.pixels[position]))
        image = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels.repeat(3, 1, 1)
        return vary(self.per_epoch, image, seed) if self.per_epoch else image


def _stacked(images: list[Tensor]) -> Tensor | list[str]:
    """(b,3,h,w), or the images' sizes if these differ. A worker cannot hand a UserError to this process."""
    if len({image.shape for image in images}) == 1:
        return torch.stack(images)
    return sorted({f"{image.shape[-1]} x {image.shape[-2]}" for image in images})


def _one_by_one(
    pixels: np.ndarray | RaggedPixels | _Decoded, per_epoch: Sequence[Callable], workers: int, pinned: bool, label: str
) -> Fetch:
    """Images that are decoded or transformed at random one by one, in this process or in workers."""

    def fetch(batches: list[Tensor], part: slice) -> Iterator[Tensor]:
        sizes = [len(positions) for positions in batches]
        seeds = _seeds(batches) if per_epoch else torch.zeros(sum(sizes), dtype=torch.int64)
        pairs = zip(torch.cat(batches).tolist(), seeds.tolist(), strict=True)
        keys = [list(islice(pairs, size)) for size in sizes]
        loader = DataLoader(
            _Images(pixels, per_epoch),
            batch_sampler=[batch[part] or batch[:1] for batch in keys],  # an empty part needs one image's shape
            collate_fn=_stacked,
            num_workers=workers,
            pin_memory=pinned,
            # A generator of its own: a draw from torch's would change all later draws of the run.
            generator=torch.Generator().manual_seed(int(seeds[0])),
            multiprocessing_context="fork" if workers and _FORKS else None,
        )
        for images, batch in zip(loader, keys, strict=True):
            yield _of_one_size(images, label)[: len(batch[part])]

    return fetch


def _of_one_size(images: Tensor | list[str], label: str) -> Tensor:
    if isinstance(images, list):
        raise UserError(
            f"{label}: the transforms should give images of one size.",
            f"One batch has images of {', '.join(images[:4])} pixels.",
            "Add a CenterCrop or a RandomCrop to the list of transforms.",
        )
    return images


def readable_batches(
    split: Split, fixed: Sequence[Callable], label: str, *, batch_size: int, device: torch.device, workers: int | None
) -> Iterator[tuple[list[int], Tensor | None, dict[int, str]]]:
    """A split's images in order, each decoded once. Those that cannot be read are left out.

    Args:
        fixed: transforms of the fixed part only.
        label, device, workers: as `build_loader` takes them.

    Yields:
        The positions of a batch's images, these images (b,3,h,w) uint8 on the CPU (None if there is none), and by
        position the reason why another image cannot be read.

    Raises:
        UserError: the images of a batch differ in size.
    """
    workers = _enough_workers(None, device) if workers is None else workers
    loader = DataLoader(
        _Readable(split, fixed),
        sampler=[batch.tolist() for batch in torch.arange(len(split)).split(batch_size)],
        batch_size=None,  # the sampler gives whole batches
        num_workers=workers,
        pin_memory=device.type == "cuda",
        multiprocessing_context="fork" if workers and _FORKS else None,
    )
    for positions, images, damaged in loader:
        yield positions, (_of_one_size(images, label) if positions else None), damaged


class _Readable(Dataset):
    """What a worker sees: the positions of a batch -> what `readable_batches` yields."""

    def __init__(self, split: Split, fixed: Sequence[Callable]):
        self.pixels = _Decoded(split, fixed)

    def __getitem__(self, positions: list[int]) -> tuple[list[int], Tensor | list[str], dict[int, str]]:
        images, damaged = {}, {}
        with quiet():
            for position in positions:
                try:
                    images[position] = torch.from_numpy(self.pixels[position]).permute(2, 0, 1)
                except Exception as error:  # Pillow's decoders raise many kinds
                    damaged[position] = reason_of(error)
        return list(images), _stacked(list(images.values())), damaged
