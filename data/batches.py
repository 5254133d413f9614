"""Batches of one split: (images (B,3,h,w) float32 in [0,1], labels (B,) int64), already on the device."""

from collections.abc import Callable, Iterator
from copy import copy

import numpy as np
import torch
from torch import Tensor

from data.fetching import Fetch, gather

WHOLE = slice(None)


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
