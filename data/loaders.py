"""Batches: (images (B,3,h,w) float32 in [0,1], labels (B,) int64), already on the device."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from data.cache import DamagedImages, RaggedPixels, cached_pixels, check_images
from data.splits import PARTS, ImageArrays, Split, Splits, quiet
from data.transforms import Transform

WHOLE = slice(None)
Fetch = Callable[[list[Tensor], slice], Iterator[Tensor]]
OnBatch = Callable[[Tensor, int, slice], Tensor]


@dataclass(frozen=True)
class Loaders:
    """A loader a split; `val` is None where the data set has none."""

    train: "Loader"
    val: "Loader | None"
    test: "Loader"

    def map(self, change: Callable[["Loader", str], "Loader"]) -> "Loaders":
        """The same with each loader changed; `change` takes the loader and its split's name."""
        return Loaders(*(loader and change(loader, name) for name, loader in vars(self).items()))


class Loader:
    """Iterates one split. Shuffling, random crops and flips draw from torch's CPU generator, which the training loop
    seeds; what is drawn does not depend on the share.

    Args:
        labels: (N,) int64.
        fetch: batches of positions (B,) int64 and a share of each -> the images of each share, (b,3,h,w) or (b,1,h,w)
            where the channels are equal (or what `encoded` made of them), uint8 or float32 in [0,1], on any device.
        on_batch: images (b,3,h,w) on the device, B and the share -> what the transform does to batches.
        batch_size: images of a whole batch.
        share: the part of each batch that this process is to see, of several that carry out one run; it may be empty.
    """

    def __init__(
        self,
        labels: np.ndarray,
        fetch: Fetch,
        on_batch: OnBatch,
        *,
        batch_size: int,
        shuffle: bool,
        device: torch.device,
        share: slice = WHOLE,
    ):
        self.labels, self.batch_size, self.shuffle, self.device = torch.from_numpy(labels), batch_size, shuffle, device
        self._fetch, self._on_batch, self._share = fetch, on_batch, share

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels)) if self.shuffle else torch.arange(len(self.labels))
        batches = list(order.split(self.batch_size))
        ordered_labels = self.labels[order].to(self.device).split(self.batch_size)
        for labels, images in zip(ordered_labels, self._fetch(batches, self._share), strict=True):
            images = images.to(self.device, non_blocking=True)
            images = images.expand(-1, 3, -1, -1) if images.ndim == 4 else images
            images = self._on_batch(images, len(labels), self._share)
            yield (images.float().div_(255) if images.dtype == torch.uint8 else images), labels[self._share]

    @property
    def examples(self) -> Tensor:
        """At most four images from all over the split, (n,3,h,w) float32 in [0,1]."""
        positions = torch.linspace(0, len(self.labels) - 1, min(4, len(self.labels))).long()
        some = self._with(lambda _, share: self._fetch([positions], share), self._on_batch, shuffle=False)
        some.labels, some.batch_size = self.labels[positions], len(positions)
        return next(iter(some))[0]

    @torch.no_grad()
    def encoded(self, encoder: nn.Module, progress: Callable[["Loader"], Iterator]) -> "Loader":
        """The same split with `encoder(images)` (B,D), computed once now and kept in memory, in place of the images.

        Every process that carries out a run computes all of them.
        """
        ordered = self._with(self._fetch, self._on_batch, shuffle=False)
        features = torch.cat([encoder(images).cpu() for images, _ in progress(ordered)])

        def fetch(batches: list[Tensor], share: slice) -> Iterator[Tensor]:
            return (features[positions[share]] for positions in batches)

        return self._with(fetch, lambda features, *_: features, shuffle=self.shuffle, share=self._share)

    def _with(self, fetch: Fetch, on_batch: OnBatch, *, shuffle: bool, share: slice = WHOLE) -> "Loader":
        how = {"batch_size": self.batch_size, "device": self.device, "shuffle": shuffle, "share": share}
        return Loader(self.labels.numpy(), fetch, on_batch, **how)


def build_loaders(splits: Splits, *, train_transform: Transform, eval_transform: Transform, **how) -> Loaders:
    """Loaders of a data set's splits, the training split shuffled; `how` is what `build_loader` takes."""
    loaders: dict[str, Loader | None] = {}
    damaged: list[str] = []
    for part in PARTS:
        transform = train_transform if part == "train" else eval_transform
        split, label = getattr(splits, part), f"{splits.name} {part}"
        try:
            loaders[part] = split and build_loader(split, transform, label, shuffle=part == "train", **how)
        except DamagedImages as error:  # the other splits' images are named in the same breath
            damaged += error.lines
    if damaged:
        raise DamagedImages(damaged)
    return Loaders(**loaders)


def build_loader(
    split: Split,
    transform: Transform,
    label: str,
    *,
    batch_size: int,
    device: torch.device,
    workers: int | None,
    cache_folder: Path | None,
    gpu_cache_fraction: float = 0.0,
    shuffle: bool = False,
    share: slice = WHOLE,
) -> Loader:
    """The loader of one split.

    Args:
        label: what messages and progress bars call the split.
        workers: processes that decode images where no cache holds them; 0 decodes in this one, None takes as many as
            pay: none where the network runs on the CPU, else up to 8.
        cache_folder: where decoded pixels are kept, once for all epochs and runs; None decodes every epoch anew.
        gpu_cache_fraction: decoded pixels that take at most this share of CUDA's free memory are kept there.
        share: the part of each batch that the loader yields, see `Loader`.

    Raises:
        DamagedImages: some images cannot be decoded; names them all.
    """
    pixels = _pixels(split, transform, cache_folder, label)
    if pixels is not None:
        fetch = _gather(_on_device(pixels, device, gpu_cache_fraction), transform, device)
    else:
        fetch = _decode_anew(split, transform, workers, device)
    how = {"batch_size": batch_size, "device": device, "shuffle": shuffle, "share": share}
    return Loader(split.labels, fetch, transform.on_batch, **how)


def _pixels(
    split: Split, transform: Transform, cache_folder: Path | None, label: str
) -> np.ndarray | RaggedPixels | None:
    """All pixels of a split, mapped or in memory; None: to be decoded every epoch."""
    if isinstance(split.source, ImageArrays):
        array = split.source.array
        fits = array.shape[1:3] == (transform.size, transform.size) and transform.side == transform.size
        return array[split.indices] if fits and cache_folder else None  # resizing an array is no decoding
    if cache_folder is None:
        check_images(split, transform, label)
        return None
    return cached_pixels(split, transform, cache_folder, label)


def _with_places(transform: Transform, batches: list[Tensor], share: slice) -> list[list[tuple[int, list[float]]]]:
    """For the share of each batch: every image's position and the place (y,x) in [0,1) of its random crop.

    All places of an epoch are drawn before its first batch, so that the same seed gives the same crops whether batches
    are read from a cache, decoded one by one, or decoded ahead by other processes, and by how many.
    """
    draw = torch.rand if transform.random else torch.zeros
    places = [draw(len(positions), 2, dtype=torch.float64).tolist() for positions in batches]
    pairs = (zip(*batch, strict=True) for batch in zip(map(Tensor.tolist, batches), places, strict=True))
    return [list(batch)[share] for batch in pairs]


def _stacked(images: Sequence[np.ndarray | Tensor], side: int) -> Tensor:
    """(b,side,side,...); no images are (0,side,side,3) uint8."""
    empty = torch.empty(0, side, side, 3, dtype=torch.uint8)
    return torch.stack(list(map(torch.as_tensor, images))) if images else empty


def _gather(pixels: Tensor | RaggedPixels, transform: Transform, device: torch.device) -> Fetch:
    def fetch(batches: list[Tensor], share: slice) -> Iterator[Tensor]:
        if transform.random:  # only the bytes of the crops are read
            keys = _with_places(transform, batches, share)
            cut = ([transform.cut(pixels[at], place) for at, place in batch] for batch in keys)
            gathered = (_stacked(images, transform.side) for images in cut)
        else:  # the positions go to the device all at once: a copy makes the device wait
            batches = [positions[share] for positions in batches]
            ordered = torch.cat(batches).to(pixels.device)
            gathered = (pixels[positions] for positions in ordered.split([len(batch) for batch in batches]))
        for batch in gathered:
            batch = batch.permute(0, 3, 1, 2) if batch.ndim == 4 else batch[:, None]
            yield batch.pin_memory() if device.type == "cuda" and not batch.is_cuda else batch

    return fetch


def _on_device(
    pixels: np.ndarray | RaggedPixels, device: torch.device, gpu_cache_fraction: float
) -> Tensor | RaggedPixels:
    """The pixels as a tensor: in CUDA's memory where they fit this share of what is free there, else as mapped."""
    if isinstance(pixels, RaggedPixels):
        return RaggedPixels(_on_device(pixels.flat, device, gpu_cache_fraction), pixels.sizes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a mapped file's memory must not be written to, and is not
        tensor = torch.from_numpy(pixels)
    if device.type == "cuda" and pixels.nbytes <= gpu_cache_fraction * torch.cuda.mem_get_info(device)[0]:
        return tensor.to(device)
    return tensor


class _Decoded(Dataset):
    """What a decoding process sees: (side,side,3) pixels by position and place of the random crop."""

    def __init__(self, split: Split, transform: Transform):
        self.split, self.transform = split, transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, list[float]]) -> np.ndarray:
        position, place = key
        with quiet():
            return self.transform.cut(self.transform.decode(self.split.open(position)), place)


def _decode_anew(split: Split, transform: Transform, workers: int | None, device: torch.device) -> Fetch:
    if workers is None:
        workers = 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)

    def fetch(batches: list[Tensor], share: slice) -> Iterator[Tensor]:
        loader = DataLoader(
            _Decoded(split, transform),
            batch_sampler=_with_places(transform, batches, share),
            collate_fn=partial(_stacked, side=transform.side),
            num_workers=workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # its own, so that decoding draws nothing that a cache would not draw
        )
        return (batch.permute(0, 3, 1, 2).contiguous() for batch in loader)  # torch's default memory format

    return fetch
