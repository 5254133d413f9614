"""RESISC45: its folders, its own split, split files of the user's."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from make_data import make_coop, make_folders

import cfg
from data.catalog import find_dataset
from data.resisc45 import Resisc45
from data.splits import PARTS
from errors import UserError

CLASSES = ("river", "airplane", "Baseball_Diamond", "sea-ice")
FOLDERS = ("resisc45/NWPU-RESISC45", "resisc45", "NWPU-RESISC45")
DEEPER = ("resisc45/NWPU-RESISC45/NWPU-RESISC45", "resisc45/archive/Dataset/images")


def make_resisc45(folder: str = FOLDERS[0], each: int = 10, classes: tuple[str, ...] = CLASSES):
    """`each` images a class below cfg.data_path; returns a list of (pixels, label) in the order of their paths."""
    return make_folders(cfg.data_path, folder, classes=classes, counts={".": each}, ending=".jpg")["."]


def lists(splits) -> dict[str, list[str]]:
    return {part: [getattr(splits, part).name(i) for i in range(splits.sizes[part])] for part in PARTS}


@pytest.mark.parametrize("folder", FOLDERS + DEEPER)
def test_folders(data_path, folder):
    expected = make_resisc45(folder)
    splits = find_dataset("resisc45").read()
    assert splits.class_names == ("baseball diamond", "airplane", "river", "sea ice")  # capitals are sorted first
    assert splits.sizes == {"train": 24, "val": 8, "test": 8}
    for part in PARTS:
        split = getattr(splits, part)
        for position, index in enumerate(split.indices.tolist()):
            pixels, label = expected[index]
            assert split.labels[position] == label
            assert split.name(position) == f"{sorted(CLASSES)[label]}/{index % 10:03}.jpg"
            np.testing.assert_array_equal(np.asarray(split.open(position)), pixels)


def test_folders_behind_a_link(data_path):
    """No class folder lies in a folder that is known, and a link leads to the one that holds them."""
    make_resisc45("elsewhere/copy")
    (data_path / "resisc45").mkdir()
    (data_path / "resisc45/archive").symlink_to(data_path / "elsewhere")
    assert find_dataset("resisc45").read().sizes == {"train": 24, "val": 8, "test": 8}


def test_the_split_is_disjoint_and_stratified(data_path):
    make_resisc45(each=25)
    splits = find_dataset("resisc45").read()
    for part, each in (("train", 15), ("val", 5), ("test", 5)):
        assert np.bincount(getattr(splits, part).labels).tolist() == [each] * 4
    parts = lists(splits)
    assert len({name for names in parts.values() for name in names}) == 100
    assert all(names == sorted(names) for names in parts.values())
    numbers = {tuple(Path(name).stem for name in parts["test"] if name.startswith(kind)) for kind in CLASSES}
    assert len(numbers) == 4, "each class is drawn by itself"


def test_classes_of_unequal_sizes(data_path):
    make_resisc45(each=7)
    (data_path / FOLDERS[0] / "river/000.jpg").unlink()
    splits = find_dataset("resisc45").read()
    assert np.bincount(splits.train.labels).tolist() == [4, 4, 4, 4]
    assert np.bincount(splits.val.labels).tolist() == [2, 2, 1, 2]
    assert np.bincount(splits.test.labels).tolist() == [1, 1, 1, 1]


def test_the_split_never_changes(data_path):
    """Results of different times and machines can only be compared while these checksums are the same."""
    make_resisc45()
    names = json.dumps(lists(find_dataset("resisc45").read()))
    assert hashlib.md5(names.encode()).hexdigest() == "7ddd06e65a9609d474539bc2f14a8a45"
    parts = Resisc45()._parts(np.repeat(np.arange(45), 700))  # the archive's images
    assert [len(part) for part in parts] == [18900, 6300, 6300]
    assert hashlib.md5(np.concatenate(parts).astype("<i8").tobytes()).hexdigest() == "6663443985dcec8dbcd1d70e37f346bb"


def test_the_split_is_independent_of_the_seed_and_of_the_order_on_disk(data_path, monkeypatch):
    make_resisc45()
    first = lists(find_dataset("resisc45").read())
    np.random.seed(3)
    assert lists(find_dataset("resisc45").read(seed=1, val_fraction=0.5)) == first
    for method in ("iterdir", "glob", "rglob"):
        inner = getattr(Path, method)
        monkeypatch.setattr(Path, method, lambda self, *args, inner=inner: iter([*inner(self, *args)][::-1]))
    assert lists(find_dataset("resisc45").read()) == first


def test_a_split_file_comes_first(data_path):
    for folder in (*FOLDERS, "resisc45/images"):
        expected = make_coop(data_path, "resisc45", folder, "split_mine.json")
        splits = find_dataset("resisc45").read()
        assert splits.train.source.root == data_path / folder
        assert splits.test.labels.tolist() == [label for _, label in expected["test"]]
        assert splits.test.name(5) == "bird-of-Paradise/test_1.jpg"
        for path in filter(Path.is_dir, list((data_path / folder).iterdir())):
            shutil.rmtree(path)


def test_a_copy_cut_into_parts_is_refused(data_path):
    """Its training part alone would be taken for the whole, and another split drawn from it."""
    for part in ("test", "train"):
        make_resisc45(f"resisc45/Dataset/{part}")
    with pytest.raises(UserError) as error:
        find_dataset("resisc45").read()
    folders = ", ".join(str(data_path / "resisc45/Dataset" / part) for part in ("test", "train"))
    assert f"Class folders are in {folders}.\nMove all images of a class into one folder." in str(error.value)


def test_errors(data_path):
    def message() -> str:
        with pytest.raises(UserError) as error:
            find_dataset("resisc45").read()
        return str(error.value)

    make_resisc45()
    (data_path / FOLDERS[0] / "zebra").mkdir()
    assert "No training image has the label 4 (zebra)" in message()
    for name in ("split.json", "split_mine.json"):
        (data_path / "resisc45" / name).write_text("{}")
    assert "split.json, split_mine.json" in message()
    shutil.rmtree(data_path / "resisc45")
    (data_path / "resisc45/NWPU-RESISC45/images/airplane").mkdir(parents=True)
    assert str(data_path / "resisc45/NWPU-RESISC45") in message() and "There is no CLASS/*.jpg in" in message()
    assert "tools/prepare_data.py resisc45" in message()
