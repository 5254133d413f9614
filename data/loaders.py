"""Batches: (images (B,3,h,w) float32 in [0,1], labels (B,) int64), already on the device."""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.augmentation import AUGMENTATIONS
from data.cache import DamagedImages
from data.catalog import find_dataset
from data.fetching import Fetch, fetcher, gather
from data.splits import PARTS, Split, Splits
from data.transforms import describe_transforms, split_transforms
from errors import UserError

WHOLE = slice(None)


def read_dataset(name: str, run, *, whole: bool = False) -> Splits:
    """The data set `name` with the images that `run.selection` chooses; lists images and labels, decodes none.

    The run compares them with those of its earlier start. `whole` reads all training images, for a second stage.

    Raises:
        UserError: there is no such data set, its files are not as they should be, or it has one class.
    """
    all_images = {"shots": None, "train_fraction": None} if whole else {}
    splits = find_dataset(name).read(**run.selection | all_images)
    if splits.num_classes < 2:
        asked = f"--dataset {name}: a method learns to tell classes apart."
        raise UserError(asked, f"There is one class, {splits.class_names[0]}.", "Add images of another class.")
    run.identify(**{"whole_data" if whole else "data": splits.fingerprint})
    return splits


@dataclass(frozen=True)
class Data:
    """A data set with a loader for each split. A loader is None if there is no such split, or if it was not asked for.

    Attributes:
        dataset: what was read: images, labels, class names and what a method needs to know of the data set.
        eval_transforms: what the images of `val` and `test` went through.
    """

    dataset: Splits
    eval_transforms: list[Callable]
    train: "Loader | None"
    val: "Loader | None"
    test: "Loader | None"
    _how: dict[str, Any]

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

    def with_passes(self, passes: int) -> "Data":
        """The same with a `train` that makes so many passes an epoch. An epoch of few images is short."""
        return replace(self, train=self.train.repeated(passes))

    @property
    def setup(self) -> dict[str, Any]:
        """What a checkpoint says of the data, in plain values."""
        if unknown := [type(each).__name__ for each in split_transforms(self.eval_transforms)[1]]:
            print(f"evaluate.py and predict.py cannot rebuild {', '.join(unknown)} of the eval transforms.")
        return {"class_names": list(self.class_names), "transform": describe_transforms(self.eval_transforms)}

    @property
    def train_as_eval(self) -> "Loader":
        """A new loader of the training images in order, under the `eval` transforms. It is for one pass.

        So the GPU's memory does not hold its pixels: the device would keep that memory for the whole run.
        """
        how = self._how | {"gpu_cache_fraction": 0.0}
        return build_loader(self.dataset.train, self.eval_transforms, f"{self.dataset.name} train", **how)

    def encoded(self, encoder: Callable[[Tensor], Tensor], progress: Callable[["Loader", str], Iterator]) -> "Data":
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

    If one image is left for the last batch of a shuffled split, it joins the batch before it. Batch normalisation
    cannot train on one image.

    Args:
        labels: (N,) int64.
        fetch: batches of positions (B,) int64 and the part of each -> the images of each part: (b,3,h,w), or (b,1,h,w)
            if the channels are equal (or what `encoded` made of them); uint8 or float32 in [0,1], on any device.
        batch_size: images of a whole batch.
        shuffle: for training.
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
        self._fetch, self._part, self.passes = fetch, part, 1
        self._unaugmented: Callable[[], Loader] | None = None

    @property
    def unaugmented(self) -> "Loader":
        """One pass over the same images, without what --augment adds to the transforms."""
        if self._unaugmented:
            return self._unaugmented()
        return self if self.passes == 1 else self.repeated(1)

    def repeated(self, passes: int) -> "Loader":
        """The same loader; one iteration of it makes so many passes, each shuffled anew."""
        repeated = copy(self)
        repeated.passes = passes
        return repeated

    @property
    def whole(self) -> "Loader":
        """The same loader, of whole batches: each process that carries out a run gets all images."""
        whole = copy(self)
        whole._part = WHOLE
        return whole

    def __len__(self) -> int:
        return self.passes * len(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        """How many images each batch has."""
        count, left = divmod(len(self.labels), self.batch_size)
        sizes = [self.batch_size] * count + [left] * (left > 0)
        return [*sizes[:-2], self.batch_size + 1] if self.shuffle and count and left == 1 else sizes

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.passes):
            yield from self._one_pass()

    def _one_pass(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels)) if self.shuffle else torch.arange(len(self.labels))
        ordered_labels = self.labels[order].to(self.device).split(self._sizes)
        fetched = self._fetch(list(order.split(self._sizes)), self._part)
        for labels, images in zip(ordered_labels, fetched, strict=True):
            yield as_floats(images, self.device), labels[self._part]

    @property
    def positions(self) -> Tensor:
        """(n,) int64: which of the N images this process gets from a loader that does not shuffle, in order."""
        batches = torch.arange(len(self.labels)).split(self._sizes)
        return torch.cat([batch[self._part] for batch in batches])

    @property
    def examples(self) -> Tensor:
        """At most four images from all over the split, (n,3,h,w) float32 in [0,1]."""
        positions = torch.linspace(0, len(self.labels) - 1, min(4, len(self.labels))).long()
        some = self._in_order()
        some.labels, some.batch_size = self.labels[positions], len(positions)
        some._fetch = lambda _, part: self._fetch([positions], part)
        return next(iter(some))[0]

    @torch.no_grad()
    def outputs(self, function: Callable[[Tensor], Tensor], progress: Callable[["Loader"], Iterator]) -> Tensor:
        """(N,D) on the CPU: function(images) (B,D) of all images in the split's order, computed once.

        Every process that carries out a run computes all of them.
        """
        return torch.cat([function(images).cpu() for images, _ in progress(self._in_order())])

    def encoded(self, encoder: Callable[[Tensor], Tensor], progress: Callable[["Loader"], Iterator]) -> "Loader":
        """The same split with the `outputs` of the encoder, kept in memory, in place of the images."""
        encoded = copy(self)
        encoded._fetch = gather(self.outputs(encoder, progress), self.device)
        return encoded

    def _in_order(self) -> "Loader":
        """The same loader, of whole batches, without shuffling."""
        ordered = self.whole
        ordered.shuffle, ordered.passes = False, 1
        return ordered


def as_floats(images: Tensor, device: torch.device) -> Tensor:
    """Fetched images on the device: (B,3,h,w) in [0,1]. What is no image, such as features, only moves there."""
    images = images.to(device, non_blocking=True)
    images = images.expand(-1, 3, -1, -1) if images.ndim == 4 else images
    if images.dtype != torch.uint8:
        return images
    # CUDA multiplies by 1/255 where the divisor is a number, which rounds otherwise than the CPU's division.
    return images.float().div_(torch.full((), 255.0, device=device))


def load_data(
    dataset: Splits, run, *, train: list[Callable], eval: list[Callable], parts: Sequence[str] = PARTS
) -> Data:
    """Loaders of a data set's splits, as `run.loading` says; see `build_data`."""
    return build_data(dataset, train=train, eval=eval, parts=parts, **run.loading(dataset.batch_size))


def build_data(
    dataset: Splits,
    *,
    train: list[Callable],
    eval: list[Callable],
    augment: str = "none",
    parts: Sequence[str] = PARTS,
    **how: Any,
) -> Data:
    """Loaders of a data set's splits. The training split is shuffled.

    Args:
        train, eval: lists of torchvision's v2 transforms; see `data.transforms`.
        augment: what follows the training transforms: a name of `data.augmentation.AUGMENTATIONS`.
        parts: the splits that are loaded.
        how: as `build_loader` takes it.

    Raises:
        DamagedImages: some images cannot be decoded; names those of all splits.
    """
    loaders: dict[str, Loader | None] = dict.fromkeys(PARTS)
    damaged: list[str] = []
    for name in parts:
        transforms = [*train, *AUGMENTATIONS[augment]] if name == "train" else eval
        split, label = getattr(dataset, name), f"{dataset.name} {name}"
        try:
            loaders[name] = split and build_loader(split, transforms, label, shuffle=name == "train", **how)
        except DamagedImages as error:  # the other splits' images are named in the same message
            damaged += error.lines
    if damaged:
        raise DamagedImages(damaged)
    if AUGMENTATIONS[augment] and loaders["train"]:
        again = partial(build_loader, dataset.train, train, f"{dataset.name} train", shuffle=True, **how)
        loaders["train"]._unaugmented = cache(again)  # made when a mapping asks for it
    return Data(dataset, eval, **loaders, _how=how)


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
    fetch = fetcher(split, transforms, label, device, workers, cache_folder, gpu_cache_fraction)
    return Loader(split.labels, fetch, batch_size=batch_size, device=device, shuffle=shuffle, part=part)
