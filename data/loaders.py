"""Batches: (images (B,3,h,w) float32 in [0,1], labels (B,) int64), already on the device."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from data.cache import DamagedImages, RaggedPixels, cached_pixels, check_images
from data.catalog import find_dataset
from data.splits import PARTS, ImageArrays, Split, Splits, quiet
from data.transforms import decode, describe_transforms, keeps_size, split_transforms, vary
from errors import UserError

WHOLE = slice(None)
# Elsewhere all cached pixels would be sent to every worker, and a script's own functions refused.
_FORKS = sys.platform == "linux"
Fetch = Callable[[list[Tensor], slice], Iterator[Tensor]]


def read_dataset(name: str, run) -> Splits:
    """The data set `name` with the images that `run.selection` chooses; lists images and labels, decodes none."""
    return find_dataset(name).read(**run.selection)


@dataclass(frozen=True)
class Data:
    """A data set with a loader for each split. A loader is None if there is no such split, or if it was not asked for.

    Attributes:
        dataset: what was read: images, labels, class names and what a method needs to know of the data set.
        eval_transforms: what the images of `val` and `test` went through.
        train_as_eval: a new loader of the training images in order, under the `eval` transforms.
    """

    dataset: Splits
    eval_transforms: list[Callable]
    train: "Loader | None"
    val: "Loader | None"
    test: "Loader | None"
    _build_train_as_eval: Callable[[], "Loader"]

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.dataset.class_names

    @property
    def num_classes(self) -> int:
        return self.dataset.num_classes

    @property
    def num_features(self) -> int:
        """D, of data whose images were `encoded`."""
        return self.test.examples.shape[1]

    @property
    def setup(self) -> dict[str, Any]:
        """What a checkpoint says of the data, in plain values."""
        if unknown := [type(each).__name__ for each in split_transforms(self.eval_transforms)[1]]:
            print(f"evaluate.py and predict.py cannot rebuild {', '.join(unknown)} of the eval transforms.")
        return {"class_names": list(self.class_names), "transform": describe_transforms(self.eval_transforms)}

    @property
    def train_as_eval(self) -> "Loader":
        return self._build_train_as_eval()

    def encoded(self, encoder: nn.Module, progress: Callable[["Loader", str], Iterator]) -> "Data":
        """The same with each loader's images encoded, see `Loader.encoded`; `train_as_eval` still gives images.

        Args:
            progress: wraps a loader for showing its progress, given a description such as "train features".
        """

        def encode(name: str) -> "Loader | None":
            loader = getattr(self, name)
            return loader and loader.encoded(encoder, lambda batches: progress(batches, f"{name} features"))

        return replace(self, **{name: encode(name) for name in PARTS})


class Loader:
    """Iterates one split. Shuffling and random transforms draw from torch's CPU generator, which the training loop
    seeds. What is drawn depends neither on the part of the batch, nor on a cache, nor on the number of workers.

    Args:
        labels: (N,) int64.
        fetch: batches of positions (B,) int64 and the part of each -> the images of each part: (b,3,h,w), or (b,1,h,w)
            if the channels are equal (or what `encoded` made of them); uint8 or float32 in [0,1], on any device.
        batch_size: images of a whole batch.
        part: the part of each batch that this process sees, of several that carry out one run; it may be empty.
    """

    def __init__(
        self,
        labels: np.ndarray,
        fetch: Fetch,
        *,
        batch_size: int,
        shuffle: bool,
        device: torch.device,
        part: slice = WHOLE,
    ):
        self.labels, self.batch_size, self.shuffle, self.device = torch.from_numpy(labels), batch_size, shuffle, device
        self._fetch, self._part = fetch, part

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels)) if self.shuffle else torch.arange(len(self.labels))
        ordered_labels = self.labels[order].to(self.device).split(self.batch_size)
        fetched = self._fetch(list(order.split(self.batch_size)), self._part)
        for labels, images in zip(ordered_labels, fetched, strict=True):
            images = images.to(self.device, non_blocking=True)
            images = images.expand(-1, 3, -1, -1) if images.ndim == 4 else images
            yield (images.float().div_(255) if images.dtype == torch.uint8 else images), labels[self._part]

    @property
    def examples(self) -> Tensor:
        """At most four images from all over the split, (n,3,h,w) float32 in [0,1]."""
        positions = torch.linspace(0, len(self.labels) - 1, min(4, len(self.labels))).long()
        some = self._in_order()
        some.labels, some.batch_size = self.labels[positions], len(positions)
        some._fetch = lambda _, part: self._fetch([positions], part)
        return next(iter(some))[0]

    @torch.no_grad()
    def encoded(self, encoder: nn.Module, progress: Callable[["Loader"], Iterator]) -> "Loader":
        """The same split with `encoder(images)` (B,D), computed once now and kept in memory, in place of the images.

        Every process that carries out a run computes all of them.
        """
        features = torch.cat([encoder(images).cpu() for images, _ in progress(self._in_order())])
        encoded = copy(self)
        encoded._fetch = lambda batches, part: (features[positions[part]] for positions in batches)
        return encoded

    def _in_order(self) -> "Loader":
        """The same loader, of whole batches, without shuffling."""
        ordered = copy(self)
        ordered.shuffle, ordered._part = False, WHOLE
        return ordered


def load_data(
    dataset: Splits, run, *, train: list[Callable], eval: list[Callable], parts: Sequence[str] = PARTS
) -> Data:
    """Loaders of a data set's splits, as `run.loading` says; see `build_data`."""
    return build_data(dataset, train=train, eval=eval, parts=parts, **run.loading(dataset.batch_size))


def build_data(
    dataset: Splits, *, train: list[Callable], eval: list[Callable], parts: Sequence[str] = PARTS, **how: Any
) -> Data:
    """Loaders of a data set's splits. The training split is shuffled.

    Args:
        train, eval: lists of torchvision's v2 transforms; see `data.transforms`.
        parts: the splits that are loaded.
        how: as `build_loader` takes it.

    Raises:
        DamagedImages: some images cannot be decoded; names those of all splits.
    """
    loaders: dict[str, Loader | None] = dict.fromkeys(PARTS)
    damaged: list[str] = []
    for name in parts:
        transforms = train if name == "train" else eval
        split, label = getattr(dataset, name), f"{dataset.name} {name}"
        try:
            loaders[name] = split and build_loader(split, transforms, label, shuffle=name == "train", **how)
        except DamagedImages as error:  # the other splits' images are named in the same message
            damaged += error.lines
    if damaged:
        raise DamagedImages(damaged)
    train_as_eval = partial(build_loader, dataset.train, eval, f"{dataset.name} train", **how)
    return Data(dataset, eval, **loaders, _build_train_as_eval=train_as_eval)


def build_loader(
    split: Split,
    transforms: Sequence[Callable],
    label: str,
    *,
    batch_size: int,
    device: torch.device,
    workers: int | None,
    cache_folder: Path | None,
    gpu_cache_fraction: float = 0.0,
    shuffle: bool = False,
    part: slice = WHOLE,
) -> Loader:
    """The loader of one split.

    Args:
        transforms: torchvision's v2 transforms; see `data.transforms`.
        label: what messages and progress bars call the split.
        workers: processes that decode images if no cache holds them, and that apply random transforms. With 0, this
            process does it. None takes 0 if the network runs on the CPU, else up to 8; few cached images get fewer.
        cache_folder: where decoded pixels are kept, once for all epochs and runs. None decodes in every epoch.
        gpu_cache_fraction: decoded pixels that take at most this fraction of CUDA's free memory are kept there.
        part: the part of each batch that the loader yields, see `Loader`.

    Raises:
        DamagedImages: some images cannot be decoded; names them all.
    """
    fixed, per_epoch = split_transforms(transforms)
    pixels = _pixels(split, fixed, cache_folder, label)
    if isinstance(pixels, np.ndarray) and not per_epoch:
        fetch = _gather(_on_device(pixels, device, gpu_cache_fraction), device)
    else:
        if workers is None:  # a random transform takes 0.1 ms, so that a process pays only for many cached images
            enough = 8 if pixels is None else len(split) // 2000 if _FORKS else 0
            workers = 0 if device.type == "cpu" else min(8, os.cpu_count() or 1, enough)
        pixels = _Decoded(split, fixed) if pixels is None else pixels
        fetch = _one_by_one(pixels, per_epoch, workers, device.type == "cuda", label)
    return Loader(split.labels, fetch, batch_size=batch_size, device=device, shuffle=shuffle, part=part)


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
    if device.type == "cuda" and pixels.nbytes <= gpu_cache_fraction * torch.cuda.mem_get_info(device)[0]:
        return tensor.to(device)
    return tensor


def _gather(pixels: Tensor, device: torch.device) -> Fetch:
    """Whole batches at once, of pixels (N,h,w,3) or (N,h,w) without random transforms."""

    def fetch(batches: list[Tensor], part: slice) -> Iterator[Tensor]:
        batches = [positions[part] for positions in batches]
        ordered = torch.cat(batches).to(pixels.device)  # all at once: a copy makes the device wait
        for positions in ordered.split([len(batch) for batch in batches]):
            batch = pixels[positions]
            batch = batch.permute(0, 3, 1, 2) if batch.ndim == 4 else batch[:, None]
            yield batch.pin_memory() if device.type == "cuda" and not batch.is_cuda else batch

    return fetch


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
        # Every image of the epoch gets its seed here. So it does not matter who transforms which image, and when.
        sizes = [len(positions) for positions in batches]
        seeds = torch.randint(2**32, (sum(sizes),)) if per_epoch else torch.zeros(sum(sizes), dtype=torch.int64)
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
            if isinstance(images, list):
                raise UserError(
                    f"{label}: the transforms should give images of one size.",
                    f"One batch has images of {', '.join(images[:4])} pixels.",
                    "Add a CenterCrop or a RandomCrop to the list of transforms.",
                )
            yield images[: len(batch[part])]

    return fetch
