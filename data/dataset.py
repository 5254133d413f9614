"""What the table of data sets says of one: where its files come from, who reads them, what methods need to know."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import cfg
from data.doubts import tell_doubts
from data.folder import Folder
from data.splits import Splits
from errors import UserError, printable

if TYPE_CHECKING:  # tables and reports read this file and need no torch
    from torch import Tensor


class Layout(Protocol):
    """The files of a data set on disk."""

    def read(self, data_path: Path, name: str) -> Splits:
        """Lists images and labels and decodes none. Raises UserError if the files are not as expected."""


@dataclass(frozen=True)
class Download:
    """A file that tools/prepare_data.py fetches.

    Args:
        urls: its addresses, in the order in which they are tried. `drive:ID` is a file of Google Drive. A file without
            an address is in the archive before it, or a user puts it there.
        path: where the file is kept, below data_path.
        md5: the checksum, if one is published. Files of several addresses have one.
        extract_to: the folder below data_path in which an archive is unpacked; None for a file that is used as it is.
    """

    urls: tuple[str, ...]
    path: str
    md5: str | None = None
    extract_to: str | None = None


@dataclass(frozen=True)
class Dataset:
    """One data set.

    Args:
        name: the value of --dataset.
        layout: reads the data set.
        image_size: side in pixels that ILM-VP gives its images on the canvas.
        batch_size: that of the original ILM-VP experiments.
        num_classes, counts: T, and the number of train, val and test images, as published. Preparation verifies them.
        text_template: the text prompt for CLIP if the general one does not fit; `{}` stands for the class name.
        inner_mask: returns the (h,w) float32 mask, 1 where the prompt learns inside the image; None if it does not.
        downloads: the files that can be fetched, in order.
        by_hand: which archives and copies are in use, and where they go, in words. `{data_path}` stands for the folder.
    """

    name: str
    layout: Layout
    image_size: int = 128
    batch_size: int = 128
    num_classes: int = 0
    counts: tuple[int, ...] = ()
    text_template: str | None = None
    inner_mask: "Callable[[], Tensor] | None" = None
    downloads: tuple[Download, ...] = field(default=(), repr=False)
    by_hand: str = field(default="", repr=False)

    def read(
        self,
        *,
        shots: int | None = None,
        train_fraction: float | None = None,
        val_fraction: float | None = None,
        val_shots: int | None = None,
        seed: int = 0,
    ) -> Splits:
        """The splits below cfg.data_path. `Splits` tells what the arguments do; `seed` draws the chosen images."""
        splits = self._read_layout()
        names = tuple(refined(class_name) for class_name in splits.class_names)
        known = {name: getattr(self, name) for name in ("image_size", "batch_size", "text_template")}
        splits = replace(splits, class_names=names, inner_mask=self.inner_mask and self.inner_mask(), **known)
        tell_doubts(splits)
        splits = splits.with_validation(val_fraction or 0, seed).with_less_training(shots, train_fraction, seed)
        return splits.with_less_validation(val_shots, seed)

    def _read_layout(self) -> Splits:
        """What the layout reads. A folder of the user's that has the name of another data set is noticed.

        Raises:
            UserError: the files are not as expected.
        """
        home = cfg.data_path / self.name
        is_own = not isinstance(self.layout, Folder) and all((home / part).is_dir() for part in ("train", "test"))
        found = f"{home} holds train/ and test/, as a folder of your own; {self.name} is the name of another data set."
        try:
            splits = self.layout.read(cfg.data_path, self.name)
        except UserError as error:
            if is_own:
                next_step = f"To use that folder, rename it, and give its new name. {error.next_step}"
                raise UserError(error.asked, f"{error.found}\n{found}", next_step) from None
            raise
        if is_own and not getattr(splits.train.source, "root", Path()).is_relative_to(home):
            print(f"{found} It is not read. To use it, rename it.", flush=True)
        return splits


def refined(class_name: str) -> str:
    """A class name as text: lower case, `_` and `-` become spaces, and what cannot be printed becomes an escape.

    The name comes from a file or a folder's name. A figure, a terminal and a file of UTF-8 can show what this returns.
    """
    return printable(class_name.lower().replace("_", " ").replace("-", " "))
