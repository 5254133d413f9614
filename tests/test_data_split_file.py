"""Split files as other systems write them: marks, backslashes, absolute paths, other Unicode normal forms."""

import json
from unicodedata import normalize

import numpy as np
import pytest
from make_data import make_coop

from data.catalog import find_dataset
from errors import UserError

CLASSES = ("Caf\u00e9", "banded", "\u00dcbung")  # each accent is one character: NFC


@pytest.fixture
def laid_out(data_path):
    """What has to be read; CLASSES lie as class folders in mine/images, the split file beside it."""
    return make_coop(data_path, "mine", "mine/images", "split.json", classes=CLASSES, ending=".png")


def rewrite(data_path, change, encoding="utf-8"):
    """Writes split.json anew with `change(path)` for each path."""
    file = data_path / "mine/split.json"
    rows = json.loads(file.read_text())
    rows = {part: [[change(path), *rest] for path, *rest in listed] for part, listed in rows.items()}
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding=encoding)


def assert_read(expected):
    splits = find_dataset("mine").read()
    assert splits.class_names == ("caf\u00e9", "banded", "\u00fcbung")
    for part, samples in expected.items():
        split = getattr(splits, part)
        assert split.labels.tolist() == [label for _, label in samples]
        for position, (pixels, _) in enumerate(samples):
            np.testing.assert_array_equal(np.asarray(split.open(position)), pixels)
    return splits


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks(data_path, laid_out, encoding, capsys):
    """Notepad and PowerShell write them."""
    rewrite(data_path, str, encoding)
    assert_read(laid_out)
    assert capsys.readouterr().out == ""


def test_absolute_paths_below_the_images_folder(data_path, laid_out, capsys):
    rewrite(data_path, lambda path: str(data_path / "mine/images" / path))
    assert assert_read(laid_out).train.name(0) == "Caf\u00e9/train_0.png"
    assert capsys.readouterr().out == ""


def test_absolute_paths_behind_a_link(data_path, laid_out):
    """The folder of images is a link, and the split file names the images where they are."""
    (data_path / "mine/images").rename(data_path / "elsewhere")
    (data_path / "mine/images").symlink_to(data_path / "elsewhere")
    rewrite(data_path, lambda path: str(data_path / "elsewhere" / path))
    assert_read(laid_out)


@pytest.mark.parametrize(
    "path", ["{}/mine/images/../../x.png", "{}/mine/images/..\\..\\x.png", "..\\..\\x.png", "{}/x.png"]
)
def test_paths_that_lead_out(data_path, laid_out, path):
    (data_path / "x.png").write_bytes(b"secret")
    rewrite(data_path, lambda own: path.format(data_path) if "train_1" in own else own)
    with pytest.raises(UserError) as error:
        find_dataset("mine").read()
    assert f'entry 3 of its "train" lies outside of the images\' folder ({data_path}/mine/images)' in str(error.value)


def test_absolute_path_in_another_of_the_folders(data_path, laid_out):
    """`mine` may hold images, too. But mine/banded/x.png is not mine/images/banded/x.png."""
    (data_path / "mine/Caf\u00e9").mkdir()
    (data_path / "mine/Caf\u00e9/train_0.png").write_bytes(b"another")
    rewrite(data_path, lambda path: str(data_path / "mine" / path) if "train_0" in path else path)
    with pytest.raises(UserError, match=r"entry 0 of its .* lies outside of the images' folder"):
        find_dataset("mine").read()


def test_backslashes(data_path, laid_out, capsys):
    rewrite(data_path, lambda path: path.replace("/", "\\") if "test" in path else path)
    assert assert_read(laid_out).test.name(0) == "Caf\u00e9/test_0.png"
    assert "6 paths have backslashes, which are read as slashes" in capsys.readouterr().out


def test_a_name_with_a_backslash_is_taken_first(data_path, laid_out, capsys):
    path = data_path / "mine/images/banded\\train_0.png"
    path.write_bytes((data_path / "mine/images/banded/train_1.png").read_bytes())
    laid_out["train"][1] = laid_out["train"][4]
    rewrite(data_path, lambda path: path.replace("banded/train_0", "banded\\train_0"))
    assert_read(laid_out)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("listed, on_disk", [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("slash", ["/", "\\"])
def test_other_normal_forms(data_path, laid_out, listed, on_disk, slash, capsys):
    """As a Mac archives names, and as other systems type them. 12 of the 18 paths have an accent."""
    for folder in sorted((data_path / "mine/images").iterdir()):
        folder.rename(folder.with_name(normalize(on_disk, folder.name)))
    rewrite(data_path, lambda path: normalize(listed, path).replace("/", slash))
    splits = assert_read(laid_out)
    assert splits.train.name(0) == normalize(on_disk, "Caf\u00e9/train_0.png")
    out = capsys.readouterr().out
    assert "12 paths have another Unicode normal form" in out
    assert ("18 paths have backslashes" in out) is (slash == "\\")


def test_class_names_in_two_normal_forms_are_one(data_path, laid_out):
    file = data_path / "mine/split.json"
    rows = json.loads(file.read_text())
    rows["test"] = [[path, label, normalize("NFD", name)] for path, label, name in rows["test"]]
    file.write_text(json.dumps(rows))
    assert_read(laid_out)


def test_missing_image_keeps_its_name(data_path, laid_out):
    """What is found in no spelling."""
    rewrite(data_path, lambda path: path.replace("/train_0", "\\x\u00e9") if path.startswith("banded") else path)
    assert find_dataset("mine").read().train.name(1) == "banded/x\u00e9.png"
