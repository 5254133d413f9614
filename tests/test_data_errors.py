"""Every mistake of a user's ends in a UserError that names what is wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from make_data import make_cifar, make_clevr, make_coop, make_folders, make_gtsrb, make_svhn

import cfg
from data.catalog import find_dataset
from data.loaders import load_data
from errors import UserError


def message_of(name: str) -> str:
    with pytest.raises(UserError) as error:
        find_dataset(name).read()
    assert error.value.exit_code == 2
    assert len(str(error.value).splitlines()) >= 3  # what was asked, what was found, what to type next
    return str(error.value)


@pytest.mark.parametrize(
    "name", ["dtd", "flowers102", "cifar10", "svhn", "gtsrb", "abide", "clevr", "resisc45", "fgvc_aircraft"]
)
@pytest.mark.parametrize("there", [True, False])
def test_no_data(tmp_path, monkeypatch, name, there):
    home = tmp_path / "elsewhere"
    monkeypatch.setattr(cfg, "data_path", home)
    if there:
        home.mkdir()
    message = message_of(name)
    assert f"--dataset {name}" in message and str(home) in message
    assert f"tools/prepare_data.py {name}" in message
    if name != "abide":
        assert ("data_path itself is not there" in message) is not there


@pytest.mark.parametrize("name, folder", [("dtd", "dtd"), ("flowers102", "oxford_flowers")])
def test_missing_split_file(data_path, name, folder):
    make_coop(data_path, folder, f"{folder}/images", "readme.json")
    message = message_of(name)
    assert find_dataset(name).layout.split_file in message and f"{name}/split.json" in message


ROW = ["a/0.jpg", 0, "a"]

# the split file's content, and words of the message
MALFORMED = {
    "cut in half": (json.dumps({"train": [ROW] * 50})[:700], ["it is no JSON"]),
    "no text": (b"\xff\xfe\x00\x01", ["it is no JSON"]),
    "empty": ("", ["it is no JSON"]),
    "very deep": ("[" * 100000, ["it is no JSON"]),
    "a list": ([ROW], ["it holds a list"]),
    "a dict in place of a list": ({"train": {"a": 0}, "test": [ROW]}, ['its "train" is no list']),
    "a string in place of a list": ({"train": "a/0.jpg", "test": [ROW]}, ['its "train" is no list']),
    "a dict in place of a row": ({"train": [ROW, {"path": 1}], "test": [ROW]}, ["entry 1", '"train"', '{"path": 1}']),
    "a short row": ({"train": [ROW], "val": [["a", 0]], "test": [ROW]}, ["entry 0", '"val"', '["a", 0]']),
    "a label in quotes": ({"train": [ROW, ["b", "1", "b"]], "test": [ROW]}, ["entry 1", '["b", "1", "b"]']),
    "a fraction as label": ({"train": [["b", 0.0, "b"]], "test": [ROW]}, ["entry 0", "0.0"]),
    "true as label": ({"train": [["b", True, "b"]], "test": [ROW]}, ["entry 0", "true"]),
    "null as path": ({"train": [ROW], "test": [[None, 0, "a"]]}, ["entry 0", '"test"', "null"]),
    "a path upwards": ({"train": [ROW], "test": [["../a/0.jpg", 0, "a"]]}, ["entry 0", '"test"', "lies outside"]),
    "a path from the root": ({"train": [ROW, ["/dev/zero", 0, "a"]], "test": [ROW]}, ["entry 1", "lies outside"]),
    "a long class name": ({"train": [ROW, ["b", 0, "a" * 5000]], "test": [ROW]}, ["both a and " + "a" * 100 + "."]),
    "labels with a gap": ({"train": [ROW, ["c", 2, "c"]], "test": [ROW]}, ["gaps", "2 of them", "0 to 2"]),
    "labels from 1": ({"train": [["a", 1, "a"]], "test": [["a", 1, "a"]]}, ["gaps"]),
    "a negative label": ({"train": [ROW, ["b", -1, "b"]], "test": [ROW]}, ["-1"]),
    "two names for one label": ({"train": [ROW], "test": [["b", 0, "b"]]}, ["label 0", "both a and b"]),
    "no test split": ({"train": [ROW]}, ['"test" list is missing or empty']),
    "an empty test split": ({"train": [ROW], "val": [ROW], "test": []}, ['"test" list is missing or empty']),
    "an empty train split": ({"train": [], "test": [ROW]}, ['"train" list is missing or empty']),
    "nothing in it": ({}, ['"train" list is missing or empty']),
    "a label only in test": ({"train": [ROW], "test": [ROW, ["a/0.jpg", 1, "b"]]}, ["No training image", "1 (b)"]),
}


@pytest.mark.parametrize("name", ["dtd", "mine"])
@pytest.mark.parametrize("content, words", MALFORMED.values(), ids=MALFORMED)
def test_malformed_split_file(data_path, name, content, words):
    make_folders(data_path, f"{name}/images", classes=("a",), counts={".": 1})
    shutil.move(data_path / name / "images/a/000.png", data_path / name / "images/a/0.jpg")
    content = content if isinstance(content, str | bytes) else json.dumps(content)
    (data_path / name / "split.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    message = message_of(name)
    for word in words:
        assert word in message


def test_messages_are_text():
    """A file's content is not to move a terminal's cursor; lines and letters stay."""
    error = UserError("a\x1b[2J", "b\nc\0\ud800", "café 猫\t.")
    assert str(error) == "a\\x1b[2J\nb\nc\\x00\\ud800\ncafé 猫\\t."
    assert error.found == "b\nc\\x00\\ud800"


@pytest.mark.parametrize("path", ["", ".", "a\0b", "a" * 5000, "\ud800", "a/" * 3000])
def test_path_that_cannot_be(data_path, path):
    rows = [["a/000.png", 0, "a"], [path, 0, "a"]]
    make_folders(data_path, "mine/images", classes=("a",), counts={".": 1})
    (data_path / "mine/split.json").write_text(json.dumps({"train": rows, "test": rows}))
    with pytest.raises(UserError) as error:
        how = {"batch_size": 4, "device": torch.device("cpu"), "workers": 0, "cache_folder": data_path / ".cache"}
        load_data(find_dataset("mine").read(), SimpleNamespace(loading=lambda batch_size: how), train=[], eval=[])
    assert "mine train: 1 of 2 cannot be read" in str(error.value) and "(label 0)" in str(error.value)
    assert len(str(error.value)) < 2000 and all(map(str.isprintable, str(error.value).splitlines()))


def test_huge_label_is_a_gap_and_costs_no_memory(data_path):
    """The message must not need a set of all labels that are not there: in a process with 1 GB."""
    (data_path / "mine").mkdir()
    (data_path / "mine/split.json").write_text(json.dumps({"train": [ROW, ["b", 10**9, "b"]], "test": [ROW]}))
    script = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30));" + LOAD_SPLIT_JSON
    command = [sys.executable, "-c", script, data_path / "mine/split.json"]
    result = subprocess.run(command, capture_output=True, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})
    assert b"UserError" in result.stdout and b"gaps" in result.stdout, result.stderr[-500:]


REPOSITORY = Path(__file__).resolve().parent.parent
LOAD_SPLIT_JSON = f"""
import sys; sys.path.insert(0, {str(REPOSITORY)!r})
from pathlib import Path
from data.coop import load_split_json
try: load_split_json(Path(sys.argv[1]), [Path()])
except Exception as error: print(type(error).__name__, error)
"""


def test_missing_images_folder(data_path):
    make_coop(data_path)
    shutil.rmtree(data_path / "dtd/images")
    message = message_of("dtd")
    assert "Pink_Primrose/train_0.jpg" in message
    for folder in ("dtd/images", "dtd/dtd/images"):
        assert str(data_path / folder) in message


def empty_class(home):
    (home / "train/banded/000.png").unlink()


def empty_test(home):
    for file in (home / "test").rglob("*.png"):
        file.unlink()


def empty_val(home):
    for file in (home / "val").rglob("*.png"):
        file.unlink()


def class_only_in_test(home):
    (home / "test/zebra").mkdir()


def no_test_folder(home):
    shutil.rmtree(home / "test")


def nothing(home):
    shutil.rmtree(home)
    home.mkdir()


def no_classes(home):
    shutil.rmtree(home / "train")
    (home / "train").mkdir()


def two_split_files(home):
    (home / "split.json").write_text("{}")
    (home / "split_other.json").write_text("{}")


@pytest.mark.parametrize(
    "mistake, words",
    [
        (empty_class, ["No training image", "1 (banded)"]),
        (empty_test, ["The test split is empty"]),
        (empty_val, ["The val split is empty"]),
        (class_only_in_test, ["zebra", "test"]),
        (no_test_folder, ["train/ and test/", "It holds train, val"]),
        (nothing, ["It holds nothing"]),
        (no_classes, ["Not among them", "banded"]),
        (two_split_files, ["split.json, split_other.json"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_class_folders(data_path, mistake, words):
    make_folders(data_path, "mine", counts={"train": 1, "val": 1, "test": 1})
    mistake(data_path / "mine")
    message = message_of("mine")
    for word in ["--dataset mine", *words]:
        assert word in message


@pytest.mark.parametrize(
    "name, nearest", [("flower102", "flowers102"), ("cifar", "cifar10"), ("oxford_pets", "oxfordpets")]
)
def test_unknown_name_with_nearest(data_path, name, nearest):
    with pytest.raises(UserError) as error:
        find_dataset(name)
    assert f"Did you mean --dataset {nearest}?" in str(error.value)
    assert "Known: cifar10, cifar100, svhn" in str(error.value) and "digits" in str(error.value)
    assert str(data_path / name) in str(error.value)  # where a folder of one's own is read from


@pytest.mark.parametrize("name", ["", ".", "..", "zzzzzz"])
def test_unknown_name(data_path, name):
    with pytest.raises(UserError, match="there is no such name"):
        find_dataset(name)


@pytest.mark.parametrize("name, make", [("cifar10", make_cifar), ("svhn", make_svhn)])
def test_changed_checksum(data_path, monkeypatch, name, make):
    make(data_path / name, monkeypatch)
    assert find_dataset(name).read().sizes["train"]
    for file in sorted((data_path / name).rglob("*"))[-1:]:
        file.write_bytes(file.read_bytes() + b"x")
    message = message_of(name)
    assert f"In {data_path / name}: Dataset " in message and " not found or corrupted. In" in message
    assert "download=True" not in message  # that is torchvision's advice


def test_gtsrb_with_missing_parts(data_path):
    make_gtsrb(data_path / "gtsrb")
    (data_path / "gtsrb/gtsrb/GT-final_test.csv").rename(data_path / "table.csv")
    message = message_of("gtsrb")
    assert "gtsrb/GT-final_test.csv" in message  # what was found to be missing
    (data_path / "gtsrb/gtsrb/GT-final_test.csv").write_text("Name;Label\n1.ppm;3\n")
    assert "KeyError" in message_of("gtsrb")
    (data_path / "table.csv").replace(data_path / "gtsrb/gtsrb/GT-final_test.csv")
    (data_path / "gtsrb/gtsrb/GTSRB/Training/00014/00000_00000.ppm").unlink()
    assert "No training image has the label 14 (stop)" in message_of("gtsrb")


def test_clevr_with_missing_parts(data_path):
    make_clevr(data_path)
    home = data_path / "clevr/CLEVR_v1.0"
    scenes = home / "scenes/CLEVR_val_scenes.json"
    content = scenes.read_text()
    scenes.write_text(content[:-100])
    assert "JSONDecodeError" in message_of("clevr")
    scenes.write_text(content.replace("image_filename", "file"))
    assert "KeyError: 'image_filename'" in message_of("clevr")
    scenes.unlink()
    assert "damaged" in message_of("clevr")
    scenes.write_text(content)
    shutil.move(home / "images/train", home / "train")
    message = message_of("clevr")
    assert "They are not in" in message and f"There is no {home / 'images/train'}." in message


@pytest.mark.parametrize("path", ["../val/CLEVR_val_000000.png", "/dev/zero", 5])
def test_clevr_with_images_elsewhere(data_path, path):
    make_clevr(data_path)
    scenes = data_path / "clevr/CLEVR_v1.0/scenes/CLEVR_train_scenes.json"
    content = json.loads(scenes.read_text())
    content["scenes"] = [{"image_filename": path, "objects": [{}] * 3}]
    scenes.write_text(json.dumps(content))
    assert "--dataset clevr: its files" in message_of("clevr")


@pytest.mark.parametrize("objects, words", [(2, "run from -1 to"), (11, "to 8; with 8 classes they run from 0 to 7")])
def test_clevr_with_another_number_of_objects(data_path, objects, words):
    make_clevr(data_path)
    scenes = data_path / "clevr/CLEVR_v1.0/scenes/CLEVR_train_scenes.json"
    content = json.loads(scenes.read_text())
    content["scenes"][0]["objects"] = [{}] * objects
    scenes.write_text(json.dumps(content))
    assert words in message_of("clevr")
