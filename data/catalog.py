"""The data sets: one table. The flags, the README, tools/prepare_data.py and the tests read it."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

import cfg
from data.abide import Abide, lower_triangle
from data.coop import CoOp
from data.doubts import tell_doubts
from data.folder import Folder
from data.packaged import Digits, Pictures
from data.resisc45 import Resisc45
from data.splits import Splits
from data.torchvision_sets import Torchvision, read_cifar, read_clevr, read_gtsrb, read_svhn
from errors import UserError, printable, unknown_name

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
        url: the address. `drive:ID` is a file of Google Drive.
        path: where the file is kept, below data_path.
        md5: the checksum, if one is published.
        extract_to: the folder below data_path in which an archive is unpacked; None for a file that is used as it is.
    """

    url: str
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
        by_hand: which other file to put where, in words.
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


def find_dataset(name: str) -> Dataset:
    """The table's row for `name`, or a row for the folder `name` in cfg.data_path.

    Raises:
        UserError: there is neither.
    """
    row = next((row for row in DATASETS if row.name == name), None)
    with suppress(OSError):  # the name is too long for a folder
        if row is None and name not in ("", ".", "..") and (cfg.data_path / name).is_dir():
            row = Dataset(name, Folder())
    if row is None:
        there = "" if cfg.data_path.is_dir() else f", but there is no folder {cfg.data_path}: set VP_DATA_PATH"
        if (cfg.data_path / name).is_symlink():
            there = ", but this link leads to no folder"
        hint = f"(Images of your own would be read from {cfg.data_path / name}{there}.)"
        raise unknown_name("--dataset", name, [row.name for row in DATASETS], hint)
    return row


def _archive(url: str, home: str, md5: str | None = None, extract_to: str | None = None, file: str = "") -> Download:
    """An archive that is kept in the folder `home` and unpacked there, or in `extract_to`."""
    file = file or url.rsplit("/", 1)[-1]
    return Download(url, f"{home}/{file}", md5, home if extract_to is None else extract_to)


def _coop(name: str, layout: CoOp, drive_id: str, *archives: Download, **row) -> Dataset:
    """A row of CoOp's data sets. The split file is `drive_id` on Google Drive; the images are in `archives`."""
    split_file = Download(f"drive:{drive_id}", f"{layout.folder}/{layout.split_file}")
    return Dataset(name, layout, downloads=(split_file, *archives), **row)


def _cifar(name: str, num_classes: int, md5: str) -> Dataset:
    archive = _archive(f"https://www.cs.toronto.edu/~kriz/cifar-{num_classes}-python.tar.gz", name, md5)
    layout, counts = Torchvision(read_cifar(f"CIFAR{num_classes}")), (50000, 0, 10000)
    return Dataset(name, layout, image_size=32, num_classes=num_classes, counts=counts, downloads=(archive,))


def _digits(name: str, layout: Digits) -> Dataset:
    return Dataset(name, layout, image_size=32, batch_size=64, num_classes=10, counts=(1078, 359, 360))


_SVHN = "http://ufldl.stanford.edu/housenumbers"
_CLEVR = "https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip"
_GTSRB = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370"
_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_ETHZ = "http://data.vision.ee.ethz.ch/cvl"
_PRINCETON = "http://vision.princeton.edu/projects/2010/SUN"
_CARS = "http://ai.stanford.edu/~jkrause/car196"

DATASETS: tuple[Dataset, ...] = (
    _cifar("cifar10", 10, "c58f30108f718f92721af3b95e74349a"),
    _cifar("cifar100", 100, "eb9058c3a382ffc7106e4002c42a8d85"),
    Dataset(
        "svhn",
        Torchvision(read_svhn),
        image_size=32,
        num_classes=10,
        counts=(73257, 0, 26032),
        downloads=(
            Download(f"{_SVHN}/train_32x32.mat", "svhn/train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
            Download(f"{_SVHN}/test_32x32.mat", "svhn/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
        ),
    ),
    Dataset(
        "gtsrb",
        Torchvision(read_gtsrb),
        image_size=32,
        num_classes=43,
        counts=(26640, 0, 12630),
        downloads=(
            _archive(f"{_GTSRB}/GTSRB-Training_fixed.zip", "gtsrb/gtsrb", "513f3c79a4c5141765e10e952eaa2478"),
            _archive(f"{_GTSRB}/GTSRB_Final_Test_Images.zip", "gtsrb/gtsrb", "c7e4e6327067d32654124b0fe9e82185"),
            _archive(f"{_GTSRB}/GTSRB_Final_Test_GT.zip", "gtsrb/gtsrb", "fe31e9c9270bbcd7b84b7f21a9d9d9e5"),
        ),
    ),
    Dataset(
        "clevr",
        Torchvision(read_clevr),
        num_classes=8,
        counts=(70000, 0, 15000),
        text_template="This is a photo of {} objects",
        downloads=(_archive(_CLEVR, "clevr", "b11922020e72d0cd9154779b2d3d07d2"),),
    ),
    Dataset(
        "abide",
        Abide(),
        image_size=200,
        batch_size=64,
        num_classes=2,
        inner_mask=lower_triangle,
        by_hand="Run the scripts of the project acerta-abide (download_abide.py, prepare_data.py) and put their"
        " data/abide.hdf5 and data/phenotypes/Phenotypic_V1_0b_preprocessed1.csv into {data_path}/abide/.",
    ),
    _coop(
        "dtd",
        CoOp("dtd", "images", "split_zhou_DescribableTextures.json", "dtd/dtd/images"),
        "1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x",
        _archive(f"{_VGG}/dtd/download/dtd-r1.0.1.tar.gz", "dtd", "fff73e5086ae6bdbea199a49dfb8a4c1", extract_to=""),
        batch_size=64,
        num_classes=47,
        counts=(2820, 1128, 1692),
    ),
    _coop(
        "flowers102",
        CoOp("oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json", "flowers-102/jpg"),
        "1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT",
        _archive(f"{_VGG}/flowers/102/102flowers.tgz", "oxford_flowers", "52808999861908f626f3c1f4e79d11fa"),
        num_classes=102,
        counts=(4093, 1633, 2463),
    ),
    _coop(
        "ucf101",
        CoOp("ucf101", "UCF-101-midframes", "split_zhou_UCF101.json"),
        "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y",
        _archive("drive:10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O", "ucf101", file="UCF-101-midframes.zip"),
        num_classes=101,
        counts=(7639, 1898, 3783),
    ),
    _coop(
        "food101",
        CoOp("food-101", "images", "split_zhou_Food101.json"),
        "1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl",
        _archive(f"{_ETHZ}/food-101.tar.gz", "food-101", "85eeb15f3717b99a5da872d97d918f87", extract_to=""),
        num_classes=101,
        counts=(50500, 20200, 30300),
    ),
    _coop(
        "eurosat",
        CoOp("eurosat", "2750", "split_zhou_EuroSAT.json"),
        "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o",
        _archive("http://madm.dfki.de/files/sentinel/EuroSAT.zip", "eurosat", "c8fa014336c82ac7804f0398fcb19387"),
        num_classes=10,
        counts=(13500, 5400, 8100),
    ),
    _coop(
        "oxfordpets",
        CoOp("oxford_pets", "images", "split_zhou_OxfordPets.json", "oxford-iiit-pet/images"),
        "1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs",
        _archive(f"{_VGG}/pets/data/images.tar.gz", "oxford_pets", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
        batch_size=64,
        num_classes=37,
        counts=(2944, 736, 3669),
    ),
    _coop(
        "stanfordcars",
        CoOp("stanford_cars", "", "split_zhou_StanfordCars.json"),
        "1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT",
        _archive(f"{_CARS}/cars_train.tgz", "stanford_cars"),
        _archive(f"{_CARS}/cars_test.tgz", "stanford_cars"),
        num_classes=196,
        counts=(6509, 1635, 8041),
        by_hand="The images' server is often down. If you have them elsewhere, put them into"
        " {data_path}/stanford_cars/cars_train/ and {data_path}/stanford_cars/cars_test/.",
    ),
    _coop(
        "sun397",
        CoOp("sun397", "SUN397", "split_zhou_SUN397.json", "SUN397"),
        "1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq",
        _archive(f"{_PRINCETON}/SUN397.tar.gz", "sun397", "8ca2778205c41d23104230ba66911c7a"),
        num_classes=397,
        counts=(15880, 3970, 19850),
    ),
    Dataset(
        "resisc45",
        Resisc45(),
        num_classes=45,
        counts=(18900, 6300, 6300),
        by_hand="Fetch NWPU-RESISC45.rar in a browser (its authors keep it on OneDrive) and unpack it so that"
        " {data_path}/resisc45/NWPU-RESISC45/airplane/airplane_001.jpg exists.",
    ),
    Dataset("pictures", Pictures(), batch_size=16, num_classes=14, counts=(420, 140, 280)),
    _digits("digits", Digits()),
    _digits("digits_inverted", Digits(change=np.invert)),  # 255 - x
    _digits("digits_rotated", Digits(change=np.rot90)),  # 90 degrees counter-clockwise
)
