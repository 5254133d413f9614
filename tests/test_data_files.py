"""Which files and folders are read, which are passed over and said, and which are refused."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from make_data import make_coop, make_corruptions, make_folders, make_gtsrb, noise, write_image
from PIL import Image
from test_data_errors import message_of
from test_data_layouts import REFINED, assert_reads

from data.catalog import find_dataset
from data.corruptions import read_corruptions
from data.files import ENDINGS, is_leftover, leads_to_leftover
from data.loaders import build_data
from errors import UserError
from tools.common.flag_types import dataset_name

TWO = {"train": 1, "test": 1}
LEFT = (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".AppleDouble")  # folders
LEFT_FILES = ("._x.jpg", ".x.png", "Thumbs.db", "desktop.ini")


def names_of(split) -> list[str]:
    return [split.name(position) for position in range(len(split))]


def leave(folder: Path) -> None:
    """What other programs leave in a folder, with images in it."""
    for name in LEFT:
        write_image(folder / name / "000.png", noise(1))
        write_image(folder / name / "deep" / "cat-checkpoint.jpg", noise(1))
    for name in LEFT_FILES:
        (folder / name).write_bytes(b"\x00\x05\x16\x07")


def test_what_is_left_by_programs():
    assert all(map(is_leftover, (*LEFT, *LEFT_FILES, "__macosx", ".DS_Store")))
    assert not any(map(is_leftover, ("cat", "x.jpg", "a.b", "thumbs", "_", "eaDir")))
    assert leads_to_leftover("cat/@eaDir/x.jpg") and leads_to_leftover("cat/._x.jpg")
    assert not leads_to_leftover("cat/x.jpg") and not leads_to_leftover("./cat/x.jpg")


def test_class_folders_pass_over_leftovers_at_every_level(data_path, capsys):
    expected = make_folders(data_path, "mine")
    for folder in ("mine", "mine/train", "mine/test", "mine/train/banded", "mine/val/Pink_Primrose"):
        leave(data_path / folder)
    assert_reads("mine", expected, REFINED)
    # 8 names in train/ and 8 in train/banded
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(", such as")[0] for line in lines] == [
        f"mine {part}: passed over {count} leftovers of other programs"
        for part, count in (("train", 16), ("val", 8), ("test", 8))
    ]


def test_split_file_that_names_leftovers(data_path, capsys):
    expected = make_coop(data_path, "mine", "mine/images", "split.json")
    file = data_path / "mine/split.json"
    rows = json.loads(file.read_text())
    rows["train"].insert(1, ["banded/._train_0.jpg", 1, "banded"])
    rows["train"].append(["banded/.ipynb_checkpoints/train_0-checkpoint.jpg", 1, "banded"])
    rows["test"].append(["__MACOSX/a.jpg", 1, "banded"])
    file.write_text(json.dumps(rows))
    assert_reads("mine", expected, REFINED)
    out = capsys.readouterr().out
    assert "mine train: passed over 2 leftovers of other programs, such as ._train_0.jpg." in out
    assert "mine test: passed over 1 leftover of other programs, such as __MACOSX." in out


def test_split_file_of_nothing_but_leftovers(data_path):
    make_coop(data_path, "mine", "mine/images", "split.json")
    rows = [["banded/._train_0.jpg", 0, "banded"]]
    (data_path / "mine/split.json").write_text(json.dumps({"train": rows, "test": rows}))
    write_image(data_path / "mine/images/banded/a.jpg", noise(1))
    (data_path / "mine/images/banded/._train_0.jpg").write_bytes(b"x")
    assert "The train split is empty" in message_of("mine")


def test_gtsrb_passes_over_leftovers(data_path, capsys):
    """A folder that sorts before 00000 would move every label by one."""
    expected = make_gtsrb(data_path)
    leave(data_path / "gtsrb/GTSRB/Training")
    leave(data_path / "gtsrb/GTSRB/Training/00007")
    write_image(data_path / "gtsrb/GTSRB/Training/.ipynb_checkpoints/00000_00000.ppm", noise(1))
    assert_reads("gtsrb", expected, find_dataset("gtsrb").read().class_names)
    assert "gtsrb train: passed over 16 leftovers" in capsys.readouterr().out


def test_corruptions_pass_over_leftovers(tmp_path):
    make_corruptions(tmp_path / "C")
    (tmp_path / "C/._frost.npy").write_bytes(b"\x00\x05\x16\x07")
    assert list(read_corruptions(tmp_path / "C", 3)) == ["brightness", "frost"]


def test_resisc45_is_not_looked_for_among_leftovers(data_path):
    write_image(data_path / "resisc45/__MACOSX/airplane.jpg", noise(1))
    assert "There is no CLASS/*.jpg" in message_of("resisc45")


@pytest.mark.parametrize("ending", sorted(ENDINGS - {".pfm", ".apng"}))
def test_every_ending_is_read(data_path, ending):
    make_folders(data_path, "mine", counts=TWO)
    mode = "1" if ending == ".pbm" else "L" if ending == ".pgm" else "RGB"
    kinds = {".jfif": "JPEG", ".jpe": "JPEG"}
    path = data_path / "mine/train/banded" / f"more{ending.upper()}"
    with path.open("wb") as file:
        kind = kinds.get(ending) or Image.registered_extensions()[ending]
        Image.fromarray(noise(5)).convert(mode).save(file, kind)
    train = find_dataset("mine").read().train
    assert len(train) == 4 and train.open(names_of(train).index(f"banded/{path.name}")).mode == "RGB"


def test_what_is_passed_over_is_told_by_ending(data_path, capsys):
    make_folders(data_path, "mine", counts=TWO)
    for name in ("a.heic", "b.HEIC", "c.avif", "notes.txt", "README"):
        (data_path / "mine/train/banded" / name).write_text("")
    write_image(data_path / "mine/train/x.jpg", noise(1))
    find_dataset("mine").read()
    assert capsys.readouterr().out == (
        "mine train: passed over 2 .heic, 1 .avif, 1 .jpg beside the class folders, 1 .txt, 1 without ending."
        " AVIF and HEIC cannot be read: convert these images to PNG or JPEG.\n"
    )


def test_many_endings_make_no_long_line(data_path, capsys):
    make_folders(data_path, "mine", counts=TWO)
    for number in range(50):
        (data_path / f"mine/train/banded/frame.{number:03}").write_text("")
    find_dataset("mine").read()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("files with 40 other endings.") and len(line) < 200


def test_nothing_to_say_says_nothing(data_path, capsys):
    make_folders(data_path, "mine")
    find_dataset("mine").read()
    assert capsys.readouterr().out == ""


def test_images_behind_linked_folders(data_path):
    """As torchvision's ImageFolder reads them."""
    expected = make_folders(data_path, "mine", counts=TWO)
    home = data_path / "mine/train"
    shutil.move(home / "banded", data_path / "elsewhere")
    (home / "banded").mkdir()
    (home / "banded/part").symlink_to(data_path / "elsewhere", target_is_directory=True)
    shutil.move(home / "bird-of-Paradise", data_path / "birds")
    (home / "bird-of-Paradise").symlink_to(data_path / "birds", target_is_directory=True)
    assert names_of(assert_reads("mine", expected, REFINED).train)[1:] == [
        "banded/part/000.png",
        "bird-of-Paradise/000.png",
    ]


def test_loops_of_links_end(data_path):
    expected = make_folders(data_path, "mine", counts=TWO)
    home = data_path / "mine/train/banded"
    (home / "again").symlink_to(home, target_is_directory=True)
    (home / "deep/deeper").mkdir(parents=True)
    (home / "deep/deeper/up").symlink_to(home / "deep", target_is_directory=True)
    assert_reads("mine", expected, REFINED)


def test_a_folder_with_an_images_name_is_a_folder(data_path):
    make_folders(data_path, "mine", counts=TWO)
    write_image(data_path / "mine/train/banded/roll.jpg/1.png", noise(3))
    assert "banded/roll.jpg/1.png" in names_of(find_dataset("mine").read().train)


@pytest.mark.parametrize("link", ["train/zebra", "train/banded/more", "test/zebra", "val"])
def test_broken_links_are_refused(data_path, link):
    make_folders(data_path, "mine", counts=TWO)
    (data_path / "mine" / link).symlink_to(data_path / "unmounted")
    message = message_of("mine")
    assert str(data_path / "mine" / link) in message and f"a link to {data_path / 'unmounted'}" in message


def test_a_link_that_leads_to_itself_is_refused(data_path):
    make_folders(data_path, "mine", counts=TWO)
    (data_path / "mine/train/zebra").symlink_to("zebra")
    assert "Too many levels of symbolic links" in message_of("mine")


def test_a_data_set_that_is_a_broken_link(data_path):
    (data_path / "mine").symlink_to(data_path / "unmounted")
    assert "this link leads to no folder" in message_of("mine")


@pytest.mark.parametrize("folder", [".", "train", "train/banded", "train/banded/deep", "test/banded"])
def test_unreadable_folders_are_refused(data_path, monkeypatch, folder):
    """Root may read everything, so that permissions alone would not do."""
    make_folders(data_path, "mine", counts=TWO)
    closed = data_path / "mine" / folder
    closed.mkdir(exist_ok=True)

    def guarded(function):
        def call(path):
            if Path(path) == closed:
                raise PermissionError(13, "Permission denied", str(path))
            return function(path)

        return call

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))
    message = message_of("mine")
    assert f"{closed}: " in message and "Permission denied" in message


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_other_names_of_the_validation_folder(data_path, name):
    expected = make_folders(data_path, "mine")
    (data_path / "mine/val").rename(data_path / "mine" / name)
    assert_reads("mine", expected, REFINED)


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_other_names_of_the_validation_list(data_path, name):
    expected = make_coop(data_path, "mine", "mine/images", "split.json", ending=".png")
    file = data_path / "mine/split.json"
    file.write_text(file.read_text().replace('"val"', f'"{name}"'))
    assert_reads("mine", expected, REFINED)


def test_two_validation_splits_are_refused(data_path):
    make_folders(data_path, "mine")
    shutil.copytree(data_path / "mine/val", data_path / "mine/valid")
    assert "Found val and valid." in message_of("mine")
    make_coop(data_path, "other", "other/images", "split.json")
    file = data_path / "other/split.json"
    rows = json.loads(file.read_text())
    file.write_text(json.dumps(rows | {"validation": rows["val"]}))
    assert "Found val and validation." in message_of("other")


def test_other_folders_and_lists_are_named(data_path, capsys):
    make_folders(data_path, "mine", counts=TWO)
    (data_path / "mine/dev").mkdir()
    find_dataset("mine").read()
    assert capsys.readouterr().out == "mine: not read: dev (beside train, test)\n"
    make_coop(data_path, "other", "other/images", "split.json")
    file = data_path / "other/split.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dev": []}))
    find_dataset("other").read()
    assert capsys.readouterr().out == 'split.json: not read: "dev"\n'


def copied(data_path, how) -> str:
    """The line that is printed if a training image is a test image, too."""
    make_folders(data_path, "mine")
    how(data_path / "mine/train/banded/000.png", data_path / "mine/test/banded/copy.png")
    return "mine: images that are both in train and in test: 1, such as banded/copy.png\n"


@pytest.mark.parametrize("how", [os.link, os.symlink, shutil.copy])
def test_an_image_in_two_splits_is_told(data_path, capsys, how):
    line = copied(data_path, how)
    assert find_dataset("mine").read().sizes["test"] == 7
    assert capsys.readouterr().out == line


def test_images_that_differ_in_a_byte_are_two(data_path, capsys):
    """Although their sizes and the sampled bytes are equal, as of scans without compression on white paper."""
    make_folders(data_path, "mine")
    home = data_path / "mine"
    content = bytearray(60_000)
    (home / "train/banded/scan.png").write_bytes(content)
    content[9_000] = 1  # not among the samples, which begin at 0, 30,000 and 55,904
    (home / "test/banded/scan.png").write_bytes(content)
    (home / "test/banded/again.png").write_bytes(content)
    find_dataset("mine").read()
    assert capsys.readouterr().out == ""
    shutil.copy(home / "test/banded/scan.png", home / "train/Pink_Primrose/scan.png")
    find_dataset("mine").read()
    assert capsys.readouterr().out.splitlines() == [
        "mine: images that are both in train and in test: 2, such as banded/again.png",
        "mine: images with more than one label: 1, such as banded/again.png (pink primrose, banded)",
    ]


def test_missing_images_of_one_name_are_two(data_path, capsys):
    make_folders(data_path, "mine")
    home = data_path / "mine"
    for part in ("train", "test"):
        (home / part / "banded/lost.png").symlink_to(home / "nowhere.png")
    find_dataset("mine").read()
    assert capsys.readouterr().out == ""


def test_an_image_in_two_lists_and_with_two_labels_is_told(data_path, capsys):
    make_coop(data_path, "mine", "mine/images", "split.json")
    file = data_path / "mine/split.json"
    rows = json.loads(file.read_text())
    rows["val"].append(["banded/./train_0.jpg", 1, "banded"])
    rows["train"].append(["banded/train_1.jpg", 0, "Pink_Primrose"])
    file.write_text(json.dumps(rows))
    find_dataset("mine").read()
    assert capsys.readouterr().out.splitlines() == [
        "mine: images that are both in train and in val: 1, such as banded/./train_0.jpg",
        "mine: images with more than one label: 1, such as banded/train_1.jpg (banded, pink primrose)",
    ]


def test_a_class_without_test_images_is_told(data_path, capsys):
    make_folders(data_path, "mine")
    shutil.rmtree(data_path / "mine/test/banded")
    find_dataset("mine").read()
    assert capsys.readouterr().out == "mine: classes without a test image: 1, such as banded\n"


# a folder's name, and the class's name as it is used; not UTF-8, a terminal's colour, two lines, the other direction
ODD_NAMES = {b"Caf\xe9": "caf\\udce9", b"\x1b[31mred": "\\x1b[31mred", b"two\nlines": "two\\nlines"}
ODD_NAMES |= {"\u202egnp".encode(): "\\u202egnp", "Käfer_猫".encode(): "käfer 猫"}


def make_odd(home: Path) -> None:
    for part in ("train", "test"):
        for name in ODD_NAMES:
            write_image(home / part / os.fsdecode(name) / os.fsdecode(name + b".png"), noise(len(name)))


def test_class_names_become_printable(data_path):
    make_odd(data_path / "mine")
    splits = find_dataset("mine").read()
    assert sorted(splits.class_names) == sorted(ODD_NAMES.values())
    assert "".join(splits.class_names).encode() and all(map(str.isprintable, splits.class_names))
    assert np.asarray(splits.train.open(0)).shape == (20, 24, 3)


def test_a_split_files_class_names_become_printable(data_path):
    make_coop(data_path, "mine", "mine/images", "split.json")
    file = data_path / "mine/split.json"
    file.write_text(file.read_text().replace('"banded"', '"ban\\ud800\\u001b[2Jded"'))
    assert find_dataset("mine").read().class_names[1] == "ban\\ud800\\x1b[2jded"


def test_names_that_become_equal_are_refused(data_path):
    make_folders(data_path, "mine", classes=("a\x1b", "a\\x1b"), counts=TWO)
    assert "More than one class is called a\\x1b" in message_of("mine")


@pytest.mark.usefixtures("figures")
@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_run_with_odd_class_names(small, run_script, capsys):
    shutil.rmtree(small)
    make_odd(small)
    words = ("--network", "tiny", "--dataset", "small", "--epoch", 1)
    receipt = run_script("experiments/cnn/ilm_vp", *words)
    assert set(receipt["mapping"]) == set(ODD_NAMES.values())
    assert capsys.readouterr().out.replace("\n", "").isprintable()


@pytest.mark.parametrize("make", [make_folders, make_coop])
def test_errors_about_an_own_folder_name_no_download(data_path, make):
    """tools/prepare_data.py knows no such data set."""
    make(data_path, "mine", **({} if make is make_folders else {"images": "mine/images", "split_file": "split.json"}))
    for broken in ("images", "train", "test"):
        shutil.rmtree(data_path / "mine" / broken, ignore_errors=True)
    assert "prepare_data" not in message_of("mine")
    (data_path / "mine/split.json").write_text("{")
    assert "prepare_data" not in message_of("mine")
    assert "prepare_data" not in message_of("missing")


@pytest.mark.parametrize("name", ["flowers102", "cifar10", "resisc45"])
def test_an_own_folder_with_a_known_name(data_path, name):
    make_folders(data_path, name, counts=TWO)
    message = message_of(name)
    assert f"{data_path / name} holds train/ and test/, as a folder of your own" in message and "rename it" in message


def test_an_own_folder_beside_the_data_set_of_its_name(data_path, capsys):
    make_folders(data_path, "digits", counts=TWO)
    assert find_dataset("digits").read().num_classes == 10
    assert "It is not read. To use it, rename it." in capsys.readouterr().out
    make_coop(data_path, "flowers102", "flowers102/images", "split.json")
    for part in TWO:
        (data_path / "flowers102" / part).mkdir()
    find_dataset("flowers102").read()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "typed", ["mine/", "./mine", ".//mine/", "other/../mine", "{data_path}/mine", "{data_path}/mine/"]
)
def test_a_data_set_has_one_name(data_path, typed):
    assert dataset_name(typed.format(data_path=data_path)) == "mine"


@pytest.mark.parametrize("typed", ["mine", "mine/inner", "flowers102", "my photos", ".hidden", "/elsewhere/mine"])
def test_other_names_stay(data_path, typed):
    assert dataset_name(typed) == typed


def test_runs_of_a_data_set_have_its_one_name(small, run_script):
    words = ("--network", "tiny", "--dataset", "./small/", "--epoch", 1)
    assert run_script("experiments/cnn/rlm_vp", *words)["dataset"] == "small"


def test_damaged_images_are_named_in_one_line(data_path):
    write_image(data_path / "mine/train/cat/a.png", noise(1))
    write_image(data_path / "mine/test/cat/a.png", noise(1))
    (data_path / "mine/train/cat" / os.fsdecode(b"b\n\xe9\x1b.png")).write_text("no image")
    how = {"batch_size": 4, "device": torch.device("cpu"), "workers": 0, "cache_folder": None}
    with pytest.raises(UserError) as error:
        build_data(find_dataset("mine").read(), train=[], eval=[], **how)
    assert "\n  cat/b\\n\\udce9\\x1b.png  (label 0): " in str(error.value)
