"""CIFAR-10-C and CIFAR-100-C: folders of .npy files, and every mistake in them."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from make_data import make_corruptions
from torchvision.transforms import v2

from data.corruptions import read_corruptions
from data.loaders import build_loader
from errors import UserError


def message_of(folder: Path, num_classes: int = 3) -> str:
    with pytest.raises(UserError) as error:
        read_corruptions(folder, num_classes)
    asked, found, next_step = str(error.value).splitlines()
    assert str(folder) in asked
    assert "zenodo.org" in next_step and "2535967" in next_step and "3555552" in next_step
    return found


@pytest.mark.parametrize("side, each", [(32, 6), (8, 4)])
@pytest.mark.parametrize("labels_of", ["all severities", "one severity"])
@pytest.mark.parametrize("label_type", [np.uint8, np.int32, np.int64])
def test_reads(tmp_path, side, each, labels_of, label_type):
    expected = make_corruptions(folder := tmp_path / "CIFAR-10-C", ("snow", "fog-2", "fog"), side=side, each=each)
    labels = np.load(folder / "labels.npy").astype(label_type)
    np.save(folder / "labels.npy", labels if labels_of == "all severities" else labels[:each])
    (folder / "readme.txt").write_text("no array")
    corruptions = read_corruptions(folder, 3)
    assert list(corruptions) == ["fog", "fog-2", "snow"]
    for name, splits in corruptions.items():
        assert len(splits) == 5
        for split, images in zip(splits, expected[name], strict=True):
            assert split.labels.dtype == np.int64
            assert split.labels.tolist() == [label for _, label in images]
            for position, (pixels, _) in enumerate(images):
                assert split.open(position).mode == "RGB"
                np.testing.assert_array_equal(np.asarray(split.open(position)), pixels)


def test_labels_may_differ_by_severity(tmp_path):
    make_corruptions(tmp_path / "c")
    labels = np.arange(30) * 7 % 3
    np.save(tmp_path / "c/labels.npy", labels)
    by_severity = [split.labels.tolist() for split in read_corruptions(tmp_path / "c", 3)["frost"]]
    assert by_severity == labels.reshape(5, 6).tolist()


def test_files_are_mapped_and_never_written(tmp_path):
    make_corruptions(tmp_path / "c")
    split = read_corruptions(tmp_path / "c", 3)["frost"][4]
    assert isinstance(split.source.array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        split.source.array[0] = 0


@pytest.mark.parametrize("size", [8, 16])
def test_loader(tmp_path, size):
    """A split is evaluated like any other, with images of their own size or resized."""
    expected = make_corruptions(tmp_path / "c")
    split = read_corruptions(tmp_path / "c", 3)["brightness"][2]
    loader = build_loader(
        split,
        [v2.Resize((size, size))],
        "c",
        batch_size=4,
        device=torch.device("cpu"),
        workers=0,
        cache_folder=tmp_path,
    )
    images, labels = (torch.cat(batches) for batches in zip(*loader, strict=True))
    assert images.shape == (6, 3, size, size) and labels.tolist() == split.labels.tolist()
    if size == 8:
        pixels = np.stack([pixels for pixels, _ in expected["brightness"][2]])
        # at most two roundings to float32, of 1/255 and of the product: each 2^-24 of a number below 1
        np.testing.assert_allclose(images.permute(0, 2, 3, 1).numpy(), pixels / 255, rtol=0, atol=2 * 2**-24)


def pickled() -> bytes:
    """What would write a file if it were opened with pickle."""

    class Evil:
        def __reduce__(self):
            return Path.touch, (Path("opened"),)

    return pickle.dumps(Evil())


def object_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{}, None]), allow_pickle=True)
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, np.zeros(3))
    return file.getvalue()


DAMAGE = {
    "cut off": lambda content: content[:-1],
    "header only": lambda content: content[:128],
    "half a header": lambda content: content[:50],
    "broken header": lambda content: content.replace(b"'descr'", b"'de(cr "),
    "empty": lambda content: b"",
    "pickle": lambda content: pickled(),
    "object array": lambda content: object_array(),
    "archive": lambda content: archive(),
}


@pytest.mark.parametrize("file", ["labels.npy", "frost.npy"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_files(tmp_path, monkeypatch, file, damage):
    make_corruptions(tmp_path / "c")
    (tmp_path / "c" / file).write_bytes(damage((tmp_path / "c" / file).read_bytes()))
    monkeypatch.chdir(tmp_path)
    assert f"{file} is cut off or holds no array of numbers: " in message_of(tmp_path / "c")
    assert not Path("opened").exists()


IMAGES, LABELS = np.zeros((30, 8, 8, 3), np.uint8), np.arange(30) % 3

# the file, its content, words of the message
WRONG = {
    "grey": ("frost", IMAGES[..., 0], "frost.npy holds uint8 (30, 8, 8). Expected: uint8 (N, h, w, 3)."),
    "channels first": ("frost", IMAGES.transpose(0, 3, 1, 2), "(30, 3, 8, 8)"),
    "alpha": ("frost", np.zeros((30, 8, 8, 4), np.uint8), "(30, 8, 8, 4)"),
    "floats": ("frost", IMAGES.astype(np.float32), "frost.npy holds float32 (30, 8, 8, 3)"),
    "no images": ("frost", IMAGES[:0], "(0, 8, 8, 3)"),
    "fewer than the others": ("frost", IMAGES[:25], "frost.npy has 25 images, brightness.npy 30."),
    "as many as the labels of one severity": ("frost", IMAGES[:6], "frost.npy has 6 images, brightness.npy 30."),
    "more than the others": ("frost", np.tile(IMAGES, (2, 1, 1, 1)), "has 30 labels, frost.npy 60 images."),
    "label floats": ("labels", LABELS.astype(float), "labels.npy holds float64 (30,). Expected: integers (N,)."),
    "label matrix": ("labels", LABELS[:, None], "labels.npy holds int64 (30, 1)"),
    "no labels": ("labels", LABELS[:0], "labels.npy holds int64 (0,)"),
    "fewer labels": ("labels", LABELS[:10], "labels.npy has 10 labels, brightness.npy 30 images. Expected: 5 sever"),
    "more labels": ("labels", np.tile(LABELS, 5), "labels.npy has 150 labels, brightness.npy 30 images."),
    "a negative label": ("labels", LABELS - 1, "run from -1 to 1. Expected: 0 to 2, of 3 classes."),
    "labels from 1": ("labels", LABELS + 1, "run from 1 to 3."),
    "another data set's labels": ("labels", np.arange(30) % 10, "run from 0 to 9. Expected: 0 to 2, of 3 classes."),
}


@pytest.mark.parametrize("file, content, words", WRONG.values(), ids=WRONG)
def test_wrong_content(tmp_path, file, content, words):
    make_corruptions(tmp_path / "c")
    np.save(tmp_path / "c" / f"{file}.npy", content)
    assert words in message_of(tmp_path / "c")


def test_a_number_of_images_that_is_no_multiple_of_five(tmp_path):
    make_corruptions(tmp_path / "c", ("frost",))
    np.save(tmp_path / "c/frost.npy", IMAGES[:28])
    np.save(tmp_path / "c/labels.npy", LABELS[:28])
    assert "labels.npy has 28 labels, frost.npy 28 images. Expected: 5 severities" in message_of(tmp_path / "c")


def test_images_of_fewer_classes_than_the_models(tmp_path):
    make_corruptions(tmp_path / "c")
    assert "run from 0 to 2. Expected: 0 to 99, of 100 classes." in message_of(tmp_path / "c", 100)


def test_missing_files(tmp_path):
    assert message_of(tmp_path / "c") == "There is no such folder."
    make_corruptions(tmp_path / "c")
    (tmp_path / "c/labels.npy").rename(tmp_path / "labels.npy")
    assert message_of(tmp_path / "c") == "There is no labels.npy in it."
    for file in (tmp_path / "c").iterdir():
        file.unlink()
    (tmp_path / "labels.npy").rename(tmp_path / "c/labels.npy")
    assert message_of(tmp_path / "c") == "It holds no .npy file but labels.npy."
