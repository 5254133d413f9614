"""Every layout on disk: the right images, labels, class names and counts are read."""

import json
import shutil

import numpy as np
import pytest
from make_data import (
    CIFAR_NAMES,
    COUNTS,
    make_aircraft,
    make_cifar,
    make_clevr,
    make_coop,
    make_folders,
    make_gtsrb,
    make_lmdb,
    make_svhn,
    noise,
    write_image,
)
from torchvision import datasets

from data.catalog import DATASETS, find_dataset
from data.dataset import refined
from data.files import UNPACKING
from errors import UserError

REFINED = ("pink primrose", "banded", "bird of paradise")


def assert_reads(name, expected, class_names):
    """The data set `name` as it is read is `expected`, image by image."""
    splits = find_dataset(name).read()
    assert splits.class_names == tuple(class_names)
    for part in ("train", "val", "test"):
        split = getattr(splits, part)
        if part not in expected:
            assert split is None
            continue
        assert split.labels.tolist() == [label for _, label in expected[part]]
        assert split.labels.dtype == np.int64
        for position, (pixels, _) in enumerate(expected[part]):
            image = split.open(position)
            assert image.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(image), pixels, f"{part} {split.name(position)}")
    return splits


# --dataset, the folder of the split file, the image folder below data_path, the split file
COOP_LAYOUTS = [
    ("dtd", "dtd", "dtd/images", "split_zhou_DescribableTextures.json"),
    ("dtd", "dtd", "dtd/images", "split.json"),  # NAME/split.json + images/
    ("dtd", "dtd", "dtd/dtd/images", "split_zhou_DescribableTextures.json"),  # torchvision's
    ("flowers102", "oxford_flowers", "oxford_flowers/jpg", "split_zhou_OxfordFlowers.json"),
    ("flowers102", "oxford_flowers", "flowers-102/jpg", "split_zhou_OxfordFlowers.json"),  # torchvision's
    ("flowers102", "flowers102", "flowers-102/jpg", "split_zhou_OxfordFlowers.json"),
    ("flowers102", "flowers102", "flowers102/flowers-102/jpg", "split_zhou_OxfordFlowers.json"),
    ("flowers102", "flowers102", "flowers102/images", "split.json"),
    ("flowers102", "oxford_flowers", "oxford_flowers/images", "split.json"),
    ("ucf101", "ucf101", "ucf101/UCF-101-midframes", "split_zhou_UCF101.json"),
    ("food101", "food-101", "food-101/images", "split_zhou_Food101.json"),
    ("eurosat", "eurosat", "eurosat/2750", "split_zhou_EuroSAT.json"),
    ("oxfordpets", "oxford_pets", "oxford_pets/images", "split_zhou_OxfordPets.json"),
    ("oxfordpets", "oxford_pets", "oxford-iiit-pet/images", "split_zhou_OxfordPets.json"),  # torchvision's
    ("stanfordcars", "stanford_cars", "stanford_cars", "split_zhou_StanfordCars.json"),
    ("sun397", "sun397", "sun397/SUN397", "split_zhou_SUN397.json"),
    ("sun397", "sun397", "SUN397", "split_zhou_SUN397.json"),  # torchvision's
    ("caltech101", "caltech-101", "caltech-101/101_ObjectCategories", "split_zhou_Caltech101.json"),
    ("caltech101", "caltech-101", "caltech101/101_ObjectCategories", "split_zhou_Caltech101.json"),  # torchvision's
    # other folders stand around the images: zenodo's archive, Kaggle's, an archive unpacked in a folder of its name
    ("eurosat", "eurosat", "eurosat/EuroSAT_RGB", "split_zhou_EuroSAT.json"),
    ("food101", "food-101", "food-101/food-101/food-101/images", "split_zhou_Food101.json"),
    ("dtd", "dtd", "dtd/dtd-r1.0.1/dtd/images", "split.json"),
    ("oxfordpets", "oxford_pets", "oxfordpets/images/images", "split_zhou_OxfordPets.json"),
    ("ucf101", "ucf101", "ucf101/a/b/c/d", "split_zhou_UCF101.json"),
    ("mine", "mine", "mine/photos/2024", "split.json"),
]


@pytest.mark.parametrize("name, folder, images, split_file", COOP_LAYOUTS)
def test_coop_layouts(data_path, name, folder, images, split_file):
    expected = make_coop(data_path, folder, images, split_file)
    splits = assert_reads(name, expected, REFINED)  # 3 classes, as the JSON says, not the table's 47 or 102
    assert splits.sizes == {"train": 9, "val": 3, "test": 6}
    assert splits.train.name(0) == "Pink_Primrose/train_0.jpg"
    assert splits.test.name(5) == "bird-of-Paradise/test_1.jpg"


def make_twins(data_path, folder, files: dict[str, str], split_file="split.json"):
    """A data set of one class: the split's paths, all in train and test, and the files that they are to be found as."""
    rows = [[path, 0, "a"] for path in files]
    for number, file in enumerate(files.values()):
        write_image(data_path / folder / file, noise(number))
    (data_path / folder / split_file).write_text(json.dumps({"train": rows, "test": rows}))


def assert_finds(name, data_path, folder, files: dict[str, str]):
    split = find_dataset(name).read().train
    assert [split.source.root / split.name(i) for i in range(len(split))] == [
        data_path / folder / file for file in files.values()
    ]


def test_kaggles_cars(data_path):
    """The same names are in two folders, so the folders tell the images apart."""
    names = [f"{part}/{number:05}.jpg" for part in ("cars_train", "cars_test") for number in range(1, 4)]
    files = {path: f"{path.split('/')[0]}/{path}" for path in names}
    make_twins(data_path, "stanford_cars", files, "split_zhou_StanfordCars.json")
    assert_finds("stanfordcars", data_path, "stanford_cars", files)


def test_cars_of_which_one_folder_is_missing(data_path):
    """The test images are never taken for the training images of the same names."""
    names = [f"{part}/{number:05}.jpg" for part in ("cars_train", "cars_test") for number in range(1, 4)]
    files = {path: f"{path.split('/')[0]}/{path}" for path in names}
    make_twins(data_path, "stanford_cars", files, "split_zhou_StanfordCars.json")
    shutil.rmtree(data_path / "stanford_cars/cars_train")
    split = find_dataset("stanfordcars").read().train
    there = [(split.source.root / split.name(i)).is_file() for i in range(len(split))]
    assert there == [False] * 3 + [True] * 3


@pytest.mark.parametrize("indoor", ["apse_indoor", "apse/indoor", "x"])
def test_class_folders_of_sun397(data_path, indoor):
    """An image's name tells which it is; its folders may be called otherwise."""
    files = {"a/abbey/sun_a.jpg": "train/abbey/sun_a.jpg", "a/apse/indoor/sun_b.jpg": f"test/{indoor}/sun_b.jpg"}
    make_twins(data_path, "sun397", files, "split_zhou_SUN397.json")
    assert_finds("sun397", data_path, "sun397", files)


def test_small_copies_in_folders_of_other_names(data_path):
    files = {"a/abbey/sun_a.jpg": "copy/abbey/sun_a.jpg", "b/barn/sun_b.jpg": "copy/barn/sun_b.jpg"}
    make_twins(data_path, "sun397", files, "split_zhou_SUN397.json")
    for number, name in enumerate(("sun_a.jpg", "sun_b.jpg")):
        write_image(data_path / "sun397/thumbnails" / name, noise(10 + number))
    assert_finds("sun397", data_path, "sun397", files)


def test_flowers_in_a_folder_for_each_class(data_path):
    files = {f"image_{number:05}.jpg": f"flower_data/train/{number % 2}/image_{number:05}.jpg" for number in range(4)}
    make_twins(data_path, "oxford_flowers", files, "split_zhou_OxfordFlowers.json")
    assert_finds("flowers102", data_path, "oxford_flowers", files)


def test_own_images_of_the_same_names_keep_to_their_folders(data_path):
    """With one image missing, that of another class is not taken for it."""
    files = {"cat/1.jpg": "photos/cat/1.jpg", "dog/1.jpg": "photos/dog/1.jpg", "dog/2.jpg": "photos/dog/2.jpg"}
    make_twins(data_path, "mine", files)
    assert_finds("mine", data_path, "mine", files)
    (data_path / "mine/photos/cat/1.jpg").unlink()
    split = find_dataset("mine").read().train
    assert [(split.source.root / split.name(i)).is_file() for i in range(3)] == [False, True, True]


@pytest.mark.parametrize(
    "files, asked, found",
    [
        (["p/a/1.jpg", "q/a/1.jpg", "p/b/1.jpg"], "the image a/1.jpg is named", "It may be p/a/1.jpg or q/a/1.jpg."),
        (["p/a/b/1.jpg"], "a/1.jpg and b/1.jpg are named", "Both may be p/a/b/1.jpg."),
    ],
)
def test_files_that_may_be_the_same_image_are_refused(data_path, files, asked, found):
    make_twins(data_path, "mine", {"a/1.jpg": files[0], "b/1.jpg": files[-1]})
    for file in files:
        write_image(data_path / "mine" / file, noise(0))
    with pytest.raises(UserError) as error:
        find_dataset("mine").read()
    assert str(error.value).startswith(f"{data_path / 'mine'}: {asked} by the split file.\n{found}\nMove the files")


def test_where_the_images_usually_are_comes_before_copies(data_path):
    files = {"a/1.jpg": "images/a/1.jpg", "a/2.jpg": "backup/a/2.jpg"}
    make_twins(data_path, "mine", files)
    write_image(data_path / "mine/backup/a/1.jpg", noise(0))
    assert_finds("mine", data_path, "mine", files)


def test_images_behind_links_and_a_link_to_a_folder_above(data_path, tmp_path):
    files = {"a/1.jpg": "disk/EuroSAT_RGB/a/1.jpg", "b/1.jpg": "disk/EuroSAT_RGB/b/1.jpg"}
    make_twins(data_path, "eurosat", files, "split_zhou_EuroSAT.json")
    shutil.move(data_path / "eurosat/disk", tmp_path / "disk")
    (data_path / "eurosat/disk").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/back").symlink_to(data_path / "eurosat")
    assert_finds("eurosat", data_path, "eurosat", files)


def test_an_archive_that_is_being_unpacked_is_not_searched(data_path):
    files = {"a/1.jpg": "copy/a/1.jpg"}
    make_twins(data_path, "eurosat", files, "split_zhou_EuroSAT.json")
    for folder in (f"EuroSAT.zip{UNPACKING}", ".Trash"):
        write_image(data_path / "eurosat" / folder / "a/1.jpg", noise(0))
    assert_finds("eurosat", data_path, "eurosat", files)


def test_coop_without_validation_split(data_path):
    expected = make_coop(data_path, counts={"train": 2, "test": 1})
    assert_reads("dtd", expected, REFINED)


def test_the_folder_with_most_images_is_taken(data_path):
    expected = make_coop(data_path, images="dtd/dtd/images")
    write_image(data_path / "dtd/images/banded/train_0.jpg", noise(999))
    assert_reads("dtd", expected, REFINED)


def test_labels_are_those_of_the_split_file(data_path):
    """Rows in any order; the class names are sorted by label, not by name or first appearance."""
    make_coop(data_path, classes=("zebra", "ant", "Maus"))
    file = data_path / "dtd/split_zhou_DescribableTextures.json"
    rows = json.loads(file.read_text())
    rows["train"].reverse()
    file.write_text(json.dumps(rows))
    splits = find_dataset("dtd").read()
    assert splits.class_names == ("zebra", "ant", "maus")
    assert splits.train.labels.tolist() == [2, 1, 0] * 3
    assert splits.train.name(0) == "Maus/train_2.jpg"


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_lmdb(data_path, protocol):
    expected = make_lmdb(data_path, protocol=protocol)
    splits = assert_reads("dtd", expected, REFINED)
    assert splits.train.name(2) == "train.lmdb key 2"


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_lmdb_with_many_keys(data_path, protocol):
    """A pickle of more than 256 objects uses other opcodes (LONG_BINPUT in protocol 3)."""
    expected = make_lmdb(data_path, protocol=protocol, counts={"train": 100, "test": 1})
    assert_reads("dtd", expected, REFINED)


def test_lmdb_is_read_twice_in_one_process(data_path):
    # py-lmdb refuses to open one file twice while the first is still open
    expected = make_lmdb(data_path)
    first = find_dataset("dtd").read()
    second = assert_reads("dtd", expected, REFINED)
    np.testing.assert_array_equal(first.train.open(0), second.train.open(0))


def test_own_folder_with_split_file(data_path):
    for split_file in ("split.json", "split_zhou_Mine.json"):
        expected = make_coop(data_path, "mine", "mine/images", split_file, ending=".png")
        assert_reads("mine", expected, REFINED)
        (data_path / "mine" / split_file).unlink()


def test_own_folder_with_split_file_beside_its_images(data_path):
    assert_reads("mine", make_coop(data_path, "mine", "mine", "split.json", ending=".png"), REFINED)


def test_own_folder_with_lmdb(data_path):
    assert_reads("mine", make_lmdb(data_path, "mine"), REFINED)


@pytest.mark.parametrize("counts", [COUNTS, {"train": 2, "test": 1}], ids=["with val", "without val"])
@pytest.mark.parametrize("ending", [".png", ".JPG"])
def test_class_folders(data_path, counts, ending):
    expected = make_folders(data_path, "mine", counts=counts, ending=ending)
    (data_path / "mine/train/banded/notes.txt").write_text("no image")
    splits = assert_reads("mine", expected, REFINED)
    assert splits.train.name(0) == f"Pink_Primrose/000{ending}"


def test_class_folders_in_deeper_folders(data_path):
    expected = make_folders(data_path, "mine", counts={"train": 1, "test": 1})
    (data_path / "mine/train/banded/deep").mkdir()
    shutil.move(data_path / "mine/train/banded/000.png", data_path / "mine/train/banded/deep/x.png")
    assert_reads("mine", expected, REFINED)


@pytest.mark.parametrize("where", ["", "NAME"])
@pytest.mark.parametrize("name, dataset", [("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)])
def test_cifar(data_path, monkeypatch, name, dataset, where):
    each = 20 if name == "cifar10" else 110  # every class needs a training image
    expected = make_cifar(data_path / where.replace("NAME", name), monkeypatch, dataset, each)
    splits = assert_reads(name, expected, map(refined, CIFAR_NAMES[dataset]))
    assert splits.sizes == {"train": 100 if name == "cifar10" else 110, "val": 0, "test": each}


@pytest.mark.parametrize("where", ["", "svhn", "svhn/svhn", "svhn/archive/SVHN"])
def test_svhn(data_path, monkeypatch, where):
    assert_reads("svhn", make_svhn(data_path / where, monkeypatch), "0123456789")


@pytest.mark.parametrize("where", ["", "gtsrb", "gtsrb/archive"])
def test_gtsrb(data_path, where):
    expected = make_gtsrb(data_path / where)
    class_names = find_dataset("gtsrb").read().class_names
    assert_reads("gtsrb", expected, class_names)
    assert len(class_names) == 43
    known = {0: "20 speed", 6: "80 lifted", 13: "give way", 14: "stop", 32: "lifted general", 40: "turn circle"}
    assert {label: class_names[label] for label in known} == known
    assert class_names[42] == "lifted no overtaking trucks"


@pytest.mark.parametrize("folder", [f"gtsrb.zip{UNPACKING}", ".Trash"])
def test_gtsrb_in_a_folder_that_is_no_data_is_not_read(data_path, folder):
    make_gtsrb(data_path / "gtsrb" / folder)
    with pytest.raises(UserError, match="They are not in"):
        find_dataset("gtsrb").read()


AIRCRAFT = {  # the folder of the lists, and that of the images
    "CoOp's": ("fgvc_aircraft", "fgvc_aircraft/images"),
    "the archive's": ("fgvc_aircraft/fgvc-aircraft-2013b/data", "fgvc_aircraft/fgvc-aircraft-2013b/data/images"),
    "torchvision's": ("fgvc-aircraft-2013b/data", "fgvc-aircraft-2013b/data/images"),
    "class folders": ("fgvc_aircraft/lists", "fgvc_aircraft/photos/CLASS"),
}


@pytest.mark.parametrize("lists, images", AIRCRAFT.values(), ids=AIRCRAFT)
def test_aircraft(data_path, lists, images):
    expected = make_aircraft(data_path, lists, images)
    splits = assert_reads("fgvc_aircraft", expected, ("707 320", "boeing 717", "f 16a/b"))
    assert splits.train.name(1) == "0000001.jpg" or "CLASS" in images


@pytest.mark.parametrize("line", ["0000001 Concorde", "0000001", "../0000001 707-320", "/etc/x 707-320"])
def test_aircraft_of_which_a_list_is_damaged(data_path, line):
    make_aircraft(data_path)
    file = data_path / "fgvc_aircraft/images_variant_val.txt"
    file.write_text(f"0000000 707-320\n{line}\n")
    with pytest.raises(UserError) as error:
        find_dataset("fgvc_aircraft").read()
    assert str(error.value).startswith(f"{file}: each line is an image's number and a variant of variants.txt.\n")
    assert f"Found: {line}\n" in str(error.value) and "tools/prepare_data.py fgvc_aircraft" in str(error.value)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="It cannot be read"):
        find_dataset("fgvc_aircraft").read()
    file.unlink()
    with pytest.raises(UserError, match="No such file"):
        find_dataset("fgvc_aircraft").read()


@pytest.mark.parametrize("where", ["", "clevr", "clevr/archive"])
def test_clevr(data_path, where):
    expected = make_clevr(data_path / where)
    splits = assert_reads("clevr", expected, "three four five six seven eight nine ten".split())
    assert splits.train.name(15) == "CLEVR_train_000015.png"
    for part, split in (("train", splits.train), ("val", splits.test)):
        theirs = datasets.CLEVRClassification(data_path / where, split=part)
        assert [split.source.root / path for path in split.source.paths] == theirs._image_files
        assert (split.labels + 3).tolist() == theirs._labels


def test_the_table_says_what_is_published():
    """Classes; training, validation and test images; the original's image and batch size."""
    published = {
        "cifar10": (10, (50000, 0, 10000), 32, 128),
        "cifar100": (100, (50000, 0, 10000), 32, 128),
        "svhn": (10, (73257, 0, 26032), 32, 128),
        "gtsrb": (43, (26640, 0, 12630), 32, 128),
        "clevr": (8, (70000, 0, 15000), 128, 128),
        "abide": (2, (), 200, 64),
        "dtd": (47, (2820, 1128, 1692), 128, 64),
        "flowers102": (102, (4093, 1633, 2463), 128, 128),
        "ucf101": (101, (7639, 1898, 3783), 128, 128),
        "food101": (101, (50500, 20200, 30300), 128, 128),
        "eurosat": (10, (13500, 5400, 8100), 128, 128),
        "oxfordpets": (37, (2944, 736, 3669), 128, 64),
        "stanfordcars": (196, (6509, 1635, 8041), 128, 128),
        "sun397": (397, (15880, 3970, 19850), 128, 128),
        "caltech101": (100, (4128, 1649, 2465), 128, 128),
        "fgvc_aircraft": (100, (3334, 3333, 3333), 128, 128),
        "resisc45": (45, (18900, 6300, 6300), 128, 128),
    }
    table = {row.name: (row.num_classes, row.counts, row.image_size, row.batch_size) for row in DATASETS}
    assert {name: table[name] for name in published} == published


def test_text_templates():
    templates = {row.name: row.text_template for row in DATASETS if row.text_template}
    assert templates == {"clevr": "This is a photo of {} objects"}
    assert templates["clevr"].format("three") == "This is a photo of three objects"
