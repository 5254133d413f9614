"""A data set by its name, and the loaders of its splits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.augmentation import AUGMENTATIONS
from data.batches import WHOLE, Loader
from data.cache import DamagedImages
from data.catalog import find_dataset
from data.fetching import fetcher
from data.splits import PARTS, Split, Splits
from data.transforms import describe_transforms, split_transforms
from errors import UserError


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
