"""predict.py on folders and with labels; load_prompted; the accuracy of each class."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from make_data import noise, write_image
from PIL import ExifTags, Image
from test_experiments import SMALL, folder

from data.batches import as_floats
from data.fetching import readable_batches
from data.loaders import build_loader
from data.loose_images import NO_LABEL, find_images, labels_by_file, labels_by_folder, read_labels
from data.sources import ImageFiles
from data.splits import whole
from data.transforms import restore_transforms
from errors import RunError, UserError
from tools.common.accuracy import class_table, per_class
from tools.common.flag_types import new_file
from tools.common.plots import sheet_figure
from tools.common.predictions import Predictions, write_csv
from tools.load import ImageTransform, load_prompted

CPU = torch.device("cpu")
CLASSES = ("cat", "bird of paradise", "dog")


@pytest.fixture
def trained(run_script, small) -> Path:
    """The ckpt.pth of a short run of ilm_vp.py on ant, bee, cow and doe, which gets about half of them right."""
    run_script("experiments/cnn/ilm_vp", *SMALL, "--epoch", 1)
    return folder("ilm_vp", "tiny_small_seed7_epoch1") / "ckpt.pth"


# The images and their labels -----------------------------------------------------------------------------------------


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_images_are_found_at_any_depth_in_order_and_once(tmp_path, capsys):
    photos, single = tmp_path / "photos", tmp_path / "single.xyz"
    touch(
        photos / "b/2.PNG", photos / "b/deep/1.jpg", photos / "a.webp", photos / "b/notes.txt", photos / "x.csv", single
    )
    touch(photos / "b/more.txt")
    found = find_images([single, photos, photos / "a.webp"])
    expected = {
        single: tmp_path,
        photos / "a.webp": photos,
        photos / "b/2.PNG": photos,
        photos / "b/deep/1.jpg": photos,
    }
    assert list(found) == list(expected)
    assert found == expected | {photos / "a.webp": photos}
    assert f"{photos}: passed over 2 .txt, 1 .csv." in capsys.readouterr().out


def test_a_folder_without_images_is_refused(tmp_path):
    touch(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="There is none"):
        find_images([tmp_path])


def test_labels_by_the_nearest_folder_that_is_a_class(tmp_path):
    names = ("Cat/1.jpg", "bird-of_Paradise/cat/2.jpg", "dog/x/y/3.jpg", "other/4.jpg", "5.jpg")
    touch(*(tmp_path / name for name in names))
    found = find_images([tmp_path])
    labels = dict(
        zip((str(file.relative_to(tmp_path)) for file in found), labels_by_folder(found, CLASSES), strict=True)
    )
    assert [labels[name] for name in names] == [0, 0, 2, NO_LABEL, NO_LABEL]
    assert labels_by_folder({tmp_path / "Cat/1.jpg": tmp_path / "Cat"}, CLASSES) == [0]  # the named folder's own name


def test_labels_by_file(tmp_path, capsys):
    table = tmp_path / "labels.csv"
    table.write_text(f"class,path,more\nCat,in/1.jpg,x\nbird_of-paradise,{tmp_path}/2.jpg,y\n", encoding="utf-8-sig")
    files = [tmp_path / name for name in ("2.jpg", "in/../in/1.jpg", "in/2.jpg")]
    assert labels_by_file(table, files, CLASSES) == [1, 0, NO_LABEL]
    assert not capsys.readouterr().out
    assert labels_by_file(table, files[:1], CLASSES) == [1]
    assert f"1 of 2 images of {table} are not among the predicted ones: {tmp_path}/in/1.jpg" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"path,class\n1.jpg,cat\n1.jpg,frog\n", "Row 3 has 'frog'; the checkpoint has cat, bird of paradise, dog"),
        (b"path,class\n1.jpg,cat\n./1.jpg,dog\n", "Row 3 gives ./1.jpg a second one"),
        (b"file,class\n1.jpg,cat\n", "Its first row has file, class"),
        (b"", "Its first row has nothing"),
        (b"path,class\n\xff.jpg,cat\n", "It cannot be read: .*utf-8"),
        (None, "It cannot be read: .*No such file"),
        (b"path,class\n9.jpg,cat\n", "It names none of these images. The first image is .*1.jpg"),
        (b"path,class\n1.jpg\n", "Row 2 has ''"),
    ],
)
def test_a_labels_file_that_does_not_fit(tmp_path, content, found):
    if content is not None:
        (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(UserError, match=found):
        read_labels(str(tmp_path / "labels.csv"), {tmp_path / "1.jpg": tmp_path}, CLASSES)


def test_images_without_a_label_are_counted(tmp_path, capsys):
    found = {tmp_path / name: tmp_path for name in ("cat/1.jpg", "x/2.jpg")}
    assert read_labels("folders", found, CLASSES) == [0, NO_LABEL]
    assert f"1 of 2 images have no label and do not count: {tmp_path}/x/2.jpg" in capsys.readouterr().out


# Reading -------------------------------------------------------------------------------------------------------------

RESIZE = [["Resize", {"size": [16, 16]}]]


@pytest.fixture
def images(tmp_path):
    """Seven files as a split: 1, 4 and 5 cannot be read."""
    for number in (0, 2, 3, 6):
        write_image(tmp_path / f"{number}.png", noise(number, 20 + number, 30))
    (tmp_path / "1.png").write_text("no image")
    (tmp_path / "4.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    return whole(ImageFiles(tmp_path, [f"{number}.png" for number in range(7)]), [0] * 7)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_can_be_read_is_what_a_loader_reads(images, workers):
    transforms = restore_transforms({"transform": RESIZE}, None)
    batches = list(readable_batches(images, transforms, "mine", batch_size=2, device=CPU, workers=workers))
    assert [positions for positions, *_ in batches] == [[0], [2, 3], [], [6]]
    assert [sorted(damaged) for *_, damaged in batches] == [[1], [], [4, 5], []]
    reasons = {position: reason for *_, damaged in batches for position, reason in damaged.items()}
    assert "cannot identify" in reasons[1] and reasons[5] == "there is no such file" and reasons[4]
    whole_ones = images.take(np.array([0, 2, 3, 6]))
    how = {"batch_size": 4, "device": CPU, "workers": 0, "cache_folder": None}
    (expected, _), *_ = build_loader(whole_ones, transforms, "mine", **how)
    read = torch.cat([pixels for _, pixels, _ in batches if pixels is not None])
    assert torch.equal(as_floats(read, CPU), expected)


def test_images_of_different_sizes_in_a_batch(images):
    with pytest.raises(UserError, match="One batch has images of 22 x 30, 23 x 30 pixels"):
        list(readable_batches(images, [], "mine", batch_size=2, device=CPU, workers=0))


# What is counted and written -----------------------------------------------------------------------------------------


@pytest.fixture
def predictions() -> Predictions:
    """Four images of cat, dog, cat and an unknown class; the third cannot be read; the second is predicted wrongly."""
    made = Predictions(["a.jpg", "=b.jpg", "c\udcff.jpg", "d.jpg"], ("cat", "=dog"), [0, 1, 0, NO_LABEL], most=5)
    made.add([0, 1], torch.tensor([[0.75, 0.25], [0.5, 0.5]], dtype=torch.float64))  # of equals the first counts
    made.add([3], torch.tensor([[0.125, 0.875]], dtype=torch.float64))
    made.damaged[2] = "cut off"
    return made


def test_counts_by_hand(predictions):
    assert predictions.confusion().tolist() == [[1, 1], [0, 0]]
    assert predictions.named()["=b.jpg"] == [("cat", 0.5), ("=dog", 0.5)]
    (mistake,) = predictions.worst_mistakes(10)
    assert mistake == (1, "=dog", 0.5, "cat", 0.5)


def test_the_worst_mistakes_come_first():
    made = Predictions(["a", "b", "c"], ("cat", "dog"), [1, 1, 1], most=1)
    made.add([0, 1, 2], torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.7, 0.3]], dtype=torch.float64))
    assert [mistake.position for mistake in made.worst_mistakes(2)] == [1, 2]


def test_the_csv_by_hand(predictions, tmp_path):
    write_csv(tmp_path / "p.csv", predictions)
    assert list(csv.reader((tmp_path / "p.csv").open(newline="", encoding="utf-8"))) == [
        ["path", "class", "probability", "class_2", "probability_2", "true_class", "error"],
        ["a.jpg", "cat", "0.75", "'=dog", "0.25", "cat", ""],
        ["./=b.jpg", "cat", "0.5", "'=dog", "0.5", "'=dog", ""],
        ["c\\udcff.jpg", "", "", "", "", "cat", "cut off"],
        ["d.jpg", "'=dog", "0.875", "cat", "0.125", "", ""],
    ]
    unlabelled = Predictions(["a.jpg"], ("cat", "dog"), None, most=1)
    unlabelled.add([0], torch.tensor([[0.25, 0.75]]))
    write_csv(tmp_path / "p.csv", unlabelled)
    assert (tmp_path / "p.csv").read_text().splitlines() == ["path,class,probability,error", "a.jpg,dog,0.75,"]


def test_accuracy_by_class_by_hand():
    confusion = torch.tensor([[3, 1, 0], [1, 1, 0], [0, 0, 0]])  # predicted as, of
    classes = per_class(confusion, ("ant", "bee", "cow"))
    assert classes == [
        {"class": "ant", "right": 3, "of": 4},
        {"class": "bee", "right": 1, "of": 2},
        {"class": "cow", "right": 0, "of": 0},
    ]
    lines = class_table(classes).splitlines()
    assert [line.split() for line in lines[2:4]] == ["0.5000 1 of 2 bee".split(), "0.7500 3 of 4 ant".split()]
    assert lines[4] == "Classes without an image: cow"


def test_a_sheet_has_a_picture_and_a_caption_for_each():
    pictures = [Image.new("RGB", (20, height)) for height in (10, 30, 20)]
    axes = sheet_figure(pictures, ["$a", "b", "c"], columns=2).axes
    assert [each.get_xlabel() for each in axes] == ["$a", "b", "c", ""]
    assert [len(each.images) for each in axes] == [1, 1, 1, 0]
    assert len(sheet_figure(pictures, "abc", columns=6).axes) == 3, "a few pictures are not followed by empty columns"


@pytest.mark.parametrize(("name", "wrong"), [("p.txt", "ends with .csv is needed"), ("none/p.csv", "no folder .*none")])
def test_an_output_that_cannot_be_written_is_refused_at_the_start(run_script, tmp_path, name, wrong):
    with pytest.raises(UserError, match=wrong):
        run_script("tools/predict", "--checkpoint", "none.pth", "x.jpg", "--output", tmp_path / name)
    assert new_file(".csv", ".png")(str(tmp_path / "x.PNG")) == tmp_path / "x.PNG"


# The commands --------------------------------------------------------------------------------------------------------


@pytest.mark.numeric
def test_a_folder_with_labels_gives_what_evaluation_gives(float64, trained, run_script, small, tmp_path, capsys):
    output, kept = tmp_path / "predictions.csv", tmp_path / "evaluation.json"
    evaluated = run_script("tools/evaluate", "--checkpoint", trained, "--output", kept)
    assert [one["of"] for one in evaluated["per_class"]] == [5] * 4
    right = sum(one["right"] for one in evaluated["per_class"])
    assert right / 20 == pytest.approx(evaluated["acc"])
    assert json.loads(kept.read_text())["per_class"] == evaluated["per_class"]
    table = class_table(evaluated["per_class"])
    assert table in capsys.readouterr().out
    run_script("tools/evaluate", "--checkpoint", trained, "--output", kept)
    assert table in capsys.readouterr().out  # printed again from the file

    words = ("--checkpoint", trained, small / "test", "--output", output, "--batch-size", 3)
    found = run_script("tools/predict", *words, "--labels", "folders", "--mistakes", 2)
    printed = capsys.readouterr().out
    assert f"Accuracy {right / 20:.4f} ({right} of 20)\n{table}" in printed
    assert f"predictions.mistakes.png: the worst 2 of {20 - right} mistakes" in printed
    assert (tmp_path / "predictions.mistakes.png").is_file()
    rows = list(csv.DictReader(output.open(newline="")))
    assert [row["path"] for row in rows] == sorted(found) and len(rows) == 20
    assert sum(row["class"] == row["true_class"] == Path(row["path"]).parent.name for row in rows) == right

    table_file = tmp_path / "labels.csv"  # predicted classes as labels: there is no mistake, and no sheet is left
    table_file.write_text("path,class\n" + "".join(f"{row['path']},{row['class']}\n" for row in rows))
    run_script("tools/predict", *words, "--labels", table_file)
    assert "Accuracy 1.0000 (20 of 20)" in capsys.readouterr().out
    assert not (tmp_path / "predictions.mistakes.png").exists()


def test_images_that_look_empty_are_named(trained, run_script, tmp_path, capsys):
    write_image(tmp_path / "x/black.png", np.zeros((20, 20, 3), np.uint8))
    write_image(tmp_path / "x/noise.png", noise(1))
    run_script("tools/predict", "--checkpoint", trained, tmp_path / "x")
    assert "your images: 1 of 2 images look empty" in (printed := capsys.readouterr().out)
    assert f"({tmp_path / 'x/black.png'})" in printed


def test_python_turns_an_image_as_evaluation_does(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(noise(1)).save(tmp_path / "turned.png", exif=exif)
    transform = ImageTransform([])
    with Image.open(tmp_path / "turned.png") as image:
        assert transform(image).shape == (3, 24, 20)  # it was 20 high and 24 wide
        assert torch.equal(transform(image), transform(tmp_path / "turned.png"))


def test_a_damaged_image_does_not_end_the_rest(trained, run_script, small, tmp_path, capsys):
    for name in ("0.png", "zz.png"):
        (small / "test/bee" / name).write_text("no image")
    output = tmp_path / "predictions.csv"
    words = ("--checkpoint", trained, small / "test", "--labels", "folders")
    with pytest.raises(RunError) as caught:
        run_script("tools/predict", *words, "--output", output)
    assert caught.value.exit_code == 1
    assert "bee/zz.png: cannot identify" in str(caught.value) and "The others are predicted." in str(caught.value)
    rows = {row["path"]: row for row in csv.DictReader(output.open(newline=""))}
    damaged = {name for name, row in rows.items() if row["error"]}
    assert damaged == {str(small / "test/bee" / name) for name in ("0.png", "zz.png")}
    assert all(bool(row["class"]) != bool(row["error"]) for row in rows.values())
    assert f"\n2 of {len(rows)} cannot be:\n" in str(caught.value)
    assert f"of {len(rows) - 2})" in capsys.readouterr().out
    with pytest.raises(RunError, match=r"1 of 1 cannot be:(.|\n)*\nReplace"):  # there are no others
        run_script("tools/predict", "--checkpoint", trained, small / "test/bee/zz.png", "--labels", "folders")
    assert "No image with a label could be read" in capsys.readouterr().out


def test_a_sheet_is_drawn_of_real_images(trained, run_script, small, tmp_path, figures):
    words = ("--checkpoint", trained, small / "test", "--labels", "folders", "--output", tmp_path / "p.csv")
    run_script("tools/predict", *words)
    with Image.open(tmp_path / "p.mistakes.png") as sheet:
        assert sheet.width == 12 * 110


@pytest.mark.numeric
def test_a_checkpoint_in_two_lines_of_python(float64, trained, run_script, small):
    model, transform, class_names = load_prompted(trained, device="cpu")
    file = small / "test/bee/0.png" if (small / "test/bee/0.png").exists() else next((small / "test/bee").iterdir())
    with torch.no_grad(), Image.open(file) as image:
        probabilities = model(transform(image)[None]).softmax(1)[0]
        assert torch.equal(transform(image), transform(str(file)))
    assert class_names == ("ant", "bee", "cow", "doe") and not model.training
    (found,) = run_script("tools/predict", "--checkpoint", trained, file).values()
    best = probabilities.sort(descending=True)
    assert [name for name, _ in found] == [class_names[label] for label in best.indices]
    assert [p for _, p in found] == pytest.approx(best.values.tolist(), abs=1e-9)


def test_wrong_arguments_of_load_prompted(trained):
    with pytest.raises(UserError, match="load_prompted: unrecognized arguments: --devise=cpu"):
        load_prompted(trained, devise="cpu")
    with pytest.raises(UserError, match="There is no such file"):
        load_prompted("none.pth")
    with pytest.raises(UserError, match="trained with --network tiny"):
        load_prompted(trained, network="resnet18")
