"""The data sets: one table. The flags, the README, tools/prepare_data.py and the tests read it."""

import os
from contextlib import suppress

import numpy as np

import cfg
from data.abide import Abide, lower_triangle
from data.aircraft import Aircraft
from data.coop import CoOp
from data.dataset import Dataset, Download
from data.folder import Folder
from data.packaged import Digits, Pictures
from data.resisc45 import Resisc45
from data.torchvision_sets import Torchvision, read_cifar, read_clevr, read_gtsrb, read_svhn
from errors import unknown_name


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
        if os.path.islink(cfg.data_path / name):  # never an error, however long the name is
            there = ", but this link leads to no folder"
        hint = f"(Images of your own would be read from {cfg.data_path / name}{there}.)"
        raise unknown_name("--dataset", name, [row.name for row in DATASETS], hint)
    return row


def _archive(home: str, *urls: str, md5: str | None = None, extract_to: str | None = None, file: str = "") -> Download:
    """An archive that is kept in the folder `home` and unpacked there, or in `extract_to`."""
    file = file or urls[0].rsplit("/", 1)[-1]
    return Download(urls, f"{home}/{file}", md5, home if extract_to is None else extract_to)


def _coop(name: str, layout: CoOp, drive_id: str, *archives: Download, **row) -> Dataset:
    """A row of CoOp's data sets. The split file is `drive_id` on Google Drive; the images are in `archives`."""
    split_file = Download((f"drive:{drive_id}",), f"{layout.folder}/{layout.split_file}")
    return Dataset(name, layout, downloads=(split_file, *archives), **row)


def _cifar(name: str, num_classes: int, md5: str) -> Dataset:
    file = f"cifar-{num_classes}-python.tar.gz"
    archive = _archive(name, f"https://www.cs.toronto.edu/~kriz/{file}", md5=md5)
    folder = f"cifar-{num_classes}-" + ("batches-py" if num_classes == 10 else "python")
    by_hand = f"Put any copy of {file}, or the folder {folder} from it, into {{data_path}}/{name}/."
    layout = Torchvision(read_cifar(f"CIFAR{num_classes}"))
    row = {"image_size": 32, "num_classes": num_classes, "counts": (50000, 0, 10000), "by_hand": by_hand}
    return Dataset(name, layout, downloads=(archive,), **row)


def _digits(name: str, layout: Digits) -> Dataset:
    return Dataset(name, layout, image_size=32, batch_size=64, num_classes=10, counts=(1078, 359, 360))


_SVHN = "http://ufldl.stanford.edu/housenumbers"
_CLEVR = "https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip"
_CALTECH = "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip"
_GTSRB = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370"
_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_THOR = "https://thor.robots.ox.ac.uk/~vgg/data"  # the same group's second server
_ETHZ = "http://data.vision.ee.ethz.ch/cvl"
_HUB = "https://huggingface.co/datasets"
_EUROSAT = f"{_HUB}/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip"
_RESISC45 = f"{_HUB}/isaaccorley/resisc45/resolve/883edc0eee77b2c84225472f10f126e3ed83fa6e/NWPU-RESISC45.zip"

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
            Download((f"{_SVHN}/train_32x32.mat",), "svhn/train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
            Download((f"{_SVHN}/test_32x32.mat",), "svhn/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
        ),
        by_hand="Put any copy of train_32x32.mat and test_32x32.mat (SVHN's cropped digits) into {data_path}/svhn/.",
    ),
    Dataset(
        "gtsrb",
        Torchvision(read_gtsrb),
        image_size=32,
        num_classes=43,
        counts=(26640, 0, 12630),
        downloads=(
            _archive("gtsrb/gtsrb", f"{_GTSRB}/GTSRB-Training_fixed.zip", md5="513f3c79a4c5141765e10e952eaa2478"),
            _archive("gtsrb/gtsrb", f"{_GTSRB}/GTSRB_Final_Test_Images.zip", md5="c7e4e6327067d32654124b0fe9e82185"),
            _archive("gtsrb/gtsrb", f"{_GTSRB}/GTSRB_Final_Test_GT.zip", md5="fe31e9c9270bbcd7b84b7f21a9d9d9e5"),
        ),
        by_hand="Put torchvision's folder gtsrb (GTSRB/Training, GTSRB/Final_Test, GT-final_test.csv) into"
        " {data_path}/gtsrb/. A copy with the folders Train and Test holds other training images: 39,209 in PNG.",
    ),
    Dataset(
        "clevr",
        Torchvision(read_clevr),
        num_classes=8,
        counts=(70000, 0, 15000),
        text_template="This is a photo of {} objects",
        downloads=(_archive("clevr", _CLEVR, md5="b11922020e72d0cd9154779b2d3d07d2"),),
        by_hand="Put any copy of CLEVR_v1.0.zip, or the folder CLEVR_v1.0 from it, into {data_path}/clevr/.",
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
        _archive(
            "dtd",
            f"{_VGG}/dtd/download/dtd-r1.0.1.tar.gz",
            md5="fff73e5086ae6bdbea199a49dfb8a4c1",
            extract_to="",
        ),
        batch_size=64,
        num_classes=47,
        counts=(2820, 1128, 1692),
        by_hand="Put any copy of dtd-r1.0.1.tar.gz, or the class folders from it (banded, blotchy, ...), into"
        " {data_path}/dtd/.",
    ),
    _coop(
        "flowers102",
        CoOp("oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json", "flowers-102/jpg"),
        "1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT",
        _archive("oxford_flowers", f"{_VGG}/flowers/102/102flowers.tgz", md5="52808999861908f626f3c1f4e79d11fa"),
        num_classes=102,
        counts=(4093, 1633, 2463),
        by_hand="Put any copy of 102flowers.tgz, or image_00001.jpg to image_08189.jpg from it, into"
        " {data_path}/oxford_flowers/. Copies with a folder for each class (train/1/image_06734.jpg) are read.",
    ),
    _coop(
        "ucf101",
        CoOp("ucf101", "UCF-101-midframes", "split_zhou_UCF101.json"),
        "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y",
        _archive("ucf101", "drive:10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O", file="UCF-101-midframes.zip"),
        num_classes=101,
        counts=(7639, 1898, 3783),
        by_hand="Put any copy of CoOp's UCF-101-midframes.zip, or its folders (Apply_Eye_Makeup, ...), into"
        " {data_path}/ucf101/. The archive of videos will not do.",
    ),
    _coop(
        "food101",
        CoOp("food-101", "images", "split_zhou_Food101.json"),
        "1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl",
        _archive("food-101", f"{_ETHZ}/food-101.tar.gz", md5="85eeb15f3717b99a5da872d97d918f87", extract_to=""),
        num_classes=101,
        counts=(50500, 20200, 30300),
        by_hand="Put any copy of food-101.tar.gz, or its class folders (apple_pie, ...), into {data_path}/food-101/."
        " Kaggle's copy has them in food-101/food-101/images/.",
    ),
    _coop(
        "eurosat",
        CoOp("eurosat", "2750", "split_zhou_EuroSAT.json"),
        "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o",
        _archive(
            "eurosat",
            _EUROSAT,
            "https://madm.dfki.de/files/sentinel/EuroSAT.zip",  # no valid certificate since 2023
            md5="c8fa014336c82ac7804f0398fcb19387",
        ),
        num_classes=10,
        counts=(13500, 5400, 8100),
        by_hand="Put any copy of EuroSAT.zip (27,000 JPEG files), or its class folders (AnnualCrop, ...), into"
        " {data_path}/eurosat/. Zenodo's record 7711810 has them as EuroSAT_RGB.zip: unpack it there.",
    ),
    _coop(
        "oxfordpets",
        CoOp("oxford_pets", "images", "split_zhou_OxfordPets.json", "oxford-iiit-pet/images"),
        "1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs",
        _archive(
            "oxford_pets",
            f"{_VGG}/pets/data/images.tar.gz",
            f"{_THOR}/pets/images.tar.gz",
            md5="5c4f3ee8e5d25df40f4fd59a7f44e54c",
        ),
        batch_size=64,
        num_classes=37,
        counts=(2944, 736, 3669),
        by_hand="Put any copy of images.tar.gz, or Abyssinian_1.jpg and so on from it, into {data_path}/oxford_pets/.",
    ),
    _coop(
        "stanfordcars",
        CoOp("stanford_cars", "", "split_zhou_StanfordCars.json"),
        "1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT",
        _archive("stanford_cars", file="cars_train.tgz"),  # ai.stanford.edu/~jkrause/car196 answers 404
        _archive("stanford_cars", file="cars_test.tgz"),
        num_classes=196,
        counts=(6509, 1635, 8041),
        by_hand="Its authors' server no longer has the images. Put any copy of cars_train.tgz and cars_test.tgz into"
        " {data_path}/stanford_cars/, or unpack Kaggle's stanford-cars-dataset there. It has the images in"
        " cars_train/cars_train/ and cars_test/cars_test/.",
    ),
    _coop(
        "sun397",
        CoOp("sun397", "SUN397", "split_zhou_SUN397.json", "SUN397", unique_names=True),
        "1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq",
        _archive("sun397", file="SUN397.tar.gz"),  # vision.princeton.edu/projects/2010/SUN answers 404
        num_classes=397,
        counts=(15880, 3970, 19850),
        by_hand="Its authors' server no longer has the images. Put any copy of SUN397.tar.gz (39 GB) into"
        " {data_path}/sun397/, or unpack there a copy with a folder for each class. The folders' names do not matter,"
        " the images' do (sun_ and 16 letters).",
    ),
    _coop(
        "caltech101",
        CoOp("caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json", "caltech101/101_ObjectCategories"),
        "1hyarUivQE36mY6jSomru6Fjd-JzwcCzN",
        _archive("caltech-101", _CALTECH, md5="3138e1922a9193bfa496528edbbc45d0"),
        _archive("caltech-101/caltech-101", extract_to="caltech-101", file="101_ObjectCategories.tar.gz"),
        num_classes=100,
        counts=(4128, 1649, 2465),
        by_hand="Put any copy of caltech-101.zip, or the folder 101_ObjectCategories from it, into"
        " {data_path}/caltech-101/. The split has 100 of its 102 folders: no BACKGROUND_Google, no Faces_easy.",
    ),
    Dataset(
        "fgvc_aircraft",
        Aircraft(),
        num_classes=100,
        counts=(3334, 3333, 3333),
        downloads=(_archive("fgvc_aircraft", f"{_VGG}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz"),),
        by_hand="Put any copy of fgvc-aircraft-2013b.tar.gz, or its folder data (variants.txt, images/ ...), into"
        " {data_path}/fgvc_aircraft/.",
    ),
    Dataset(
        "resisc45",
        Resisc45(),
        num_classes=45,
        counts=(18900, 6300, 6300),
        downloads=(_archive("resisc45", _RESISC45, md5="75206b2e16446591afa88e2628744886"),),
        by_hand="Or fetch NWPU-RESISC45.rar in a browser (its authors keep it on OneDrive) and unpack it so that"
        " {data_path}/resisc45/NWPU-RESISC45/airplane/airplane_001.jpg exists.",
    ),
    Dataset("pictures", Pictures(), batch_size=16, num_classes=14, counts=(420, 140, 280)),
    _digits("digits", Digits()),
    _digits("digits_inverted", Digits(change=np.invert)),  # 255 - x
    _digits("digits_rotated", Digits(change=np.rot90)),  # 90 degrees counter-clockwise
)
