"""What makes two results the same: images, weights and precision, not the names of data set and network."""

import json
import os
import shutil
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from make_data import make_folders, make_lmdb, write_image
from PIL import Image
from test_experiments import SMALL, folder
from tiny import TINY, TinyNetwork

import cfg
from data.cache import cached_pixels
from data.catalog import find_dataset
from data.sources import ImageArrays, ImageFiles, sampled_checksum
from data.splits import whole
from errors import UserError
from models.network_source import NETWORKS
from tools.common.naming import differences

pytestmark = pytest.mark.usefixtures("small")
SCRIPT = "experiments/cnn/ilm_vp"


def fingerprint(name: str = "small") -> dict[str, str]:
    return find_dataset(name).read().fingerprint


def rewrite(small, change) -> None:
    """Gives every test image of `small` the pixels change(pixels), in a file of a fixed size and of the same time."""
    for file in sorted((small / "test").rglob("*.png")):
        status = file.stat()
        pixels = change(np.asarray(ImageFiles(file.parent, [file.name]).open(0)))
        Image.fromarray(pixels).save(file, compress_level=0)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def inverted(pixels: np.ndarray) -> np.ndarray:
    return 255 - pixels


def other_weights(monkeypatch) -> None:
    body = TinyNetwork()
    body.fc.weight.data.mul_(-1)
    monkeypatch.setitem(NETWORKS, "tiny", replace(TINY, build=lambda: body))


def interrupted(run) -> None:
    (run / "result.json").unlink()


def test_differences_in_words():
    then = {"lr": 0.1, "data": {"train": "33 images, a", "val": "none"}, "precision": "float32", "old": 1}
    now = {"lr": 0.1, "data": {"train": "28 images, b", "val": "none"}, "precision": "bfloat16", "new": 1}
    assert differences(then, then) == []
    assert differences(then, now) == [
        "data: train 33 images, a, not 28 images, b",
        "precision float32, not bfloat16",
    ]


def test_a_sampled_checksum_by_hand(tmp_path):
    content = np.random.default_rng(0).bytes(20_000)
    (tmp_path / "large").write_bytes(content)
    (tmp_path / "small").write_bytes(b"abc")
    samples = content[:4096] + content[10_000:14_096] + content[-4096:]
    assert sampled_checksum(tmp_path / "large") == (20_000, zlib.crc32(samples))
    assert sampled_checksum(tmp_path / "small") == (3, zlib.crc32(b"abc" + b"bc" + b"abc"))


@pytest.mark.parametrize("change", ["label", "order", "name", "pixel"])
def test_whatever_changes_a_split_changes_its_fingerprint(change, tmp_path):
    files = [f"{number}.png" for number in range(3)]
    for number, file in enumerate(files):
        write_image(tmp_path / file, np.full((4, 4, 3), number, np.uint8))
    before = whole(ImageFiles(tmp_path, files), [0, 0, 1]).fingerprint
    assert before.startswith("3 images, ")
    assert whole(ImageFiles(tmp_path, files), [0, 0, 1]).fingerprint == before
    labels = [0, 1, 1] if change == "label" else [0, 0, 1]
    if change == "order":
        files[:2] = files[1::-1]
    elif change == "name":
        files[0] = str((tmp_path / files[0]).rename(tmp_path / "new.png").name)
    elif change == "pixel":
        write_image(tmp_path / files[0], np.full((4, 4, 3), 9, np.uint8))
    assert whole(ImageFiles(tmp_path, files), labels).fingerprint != before


def test_arrays_have_a_fingerprint_of_their_pixels():
    pixels = np.zeros((3, 2, 2, 3), np.uint8)
    before = whole(ImageArrays(pixels), [0, 1, 2]).fingerprint
    pixels[2, 1, 1, 1] = 1
    assert whole(ImageArrays(pixels), [0, 1, 2]).fingerprint != before


def test_a_missing_image_is_left_to_decoding(tmp_path):
    assert whole(ImageFiles(tmp_path, ["none.png", "\0"]), [0, 1]).fingerprint.startswith("2 images, ")


def test_moving_or_copying_a_data_set_does_not_change_it(tmp_path, monkeypatch):
    make_lmdb(cfg.data_path, "dtd")
    before = fingerprint(), fingerprint("dtd")
    shutil.copytree(cfg.data_path, tmp_path / "elsewhere", copy_function=shutil.copyfile)  # with new times
    monkeypatch.setattr(cfg, "data_path", tmp_path / "elsewhere")
    assert (fingerprint(), fingerprint("dtd")) == before


def test_a_validation_split_that_appears_is_a_difference(small):
    before = fingerprint()
    (small / "val").rename(small.parent / "hidden")
    (difference,) = differences(before, fingerprint())
    assert difference.startswith("val 12 images, ") and difference.endswith("not none")


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_does_not_go_on_with_other_images(finished, small, run_script):
    result = run_script(SCRIPT, *SMALL, "--epoch", 2)
    run = folder(SCRIPT, "tiny_small_seed7_epoch2")
    if not finished:
        interrupted(run)
    shutil.copytree(small, small.parent / "copy")
    rewrite(small, inverted)
    with pytest.raises(UserError, match=r"has data: test 20 images, \w+, not 20 images, \w+\.(.|\n)*--fresh"):
        run_script(SCRIPT, *SMALL, "--epoch", 2)
    shutil.rmtree(small)
    (small.parent / "copy").rename(small)
    assert run_script(SCRIPT, *SMALL, "--epoch", 2)["test_acc_last"] == result["test_acc_last"]


def test_a_finished_run_whose_data_were_moved_is_told_again(small, run_script, tmp_path, monkeypatch):
    result = run_script(SCRIPT, *SMALL, "--epoch", 1)
    monkeypatch.setattr(cfg, "data_path", cfg.data_path.rename(tmp_path / "moved"))
    assert run_script(SCRIPT, *SMALL, "--epoch", 1) == result


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_does_not_go_on_with_other_weights(finished, run_script, monkeypatch):
    run_script(SCRIPT, *SMALL, "--epoch", 2)
    if not finished:
        interrupted(folder(SCRIPT, "tiny_small_seed7_epoch2"))
    other_weights(monkeypatch)
    with pytest.raises(UserError, match=r"has weights \w+, not \w+\.(.|\n)*--fresh"):
        run_script(SCRIPT, *SMALL, "--epoch", 2)
    assert run_script(SCRIPT, *SMALL, "--epoch", 2, "--fresh")["status"] == "finished"


def test_the_receipt_names_data_and_weights(run_script):
    run_script(SCRIPT, *SMALL, "--epoch", 1)
    run = folder(SCRIPT, "tiny_small_seed7_epoch1")
    for name in ("args.json", "result.json"):
        content = json.loads((run / name).read_text())
        assert content["data"] == fingerprint()
        assert len(content["weights"]) == 16


def test_a_replaced_image_of_the_same_size_and_time_is_decoded_again(small, tmp_path):
    rewrite(small, np.array)
    split = find_dataset("small").read().test
    before = np.array(cached_pixels(split, [], tmp_path / "cache", "test")[0])
    (small / "test").rename(small / "old")  # as rsync does: the new files have other inodes
    shutil.copytree(small / "old", small / "test")
    rewrite(small, inverted)
    sizes = {file.stat().st_size for each in ("old", "test") for file in (small / each / "ant").iterdir()}
    assert len(sizes) == 1
    after = cached_pixels(find_dataset("small").read().test, [], tmp_path / "cache", "test")[0]
    np.testing.assert_array_equal(after, 255 - before)


@pytest.mark.parametrize("change", ["images", "precision", "weights"])
def test_an_evaluation_is_told_again_only_for_the_same_images_weights_and_precision(
    change, small, run_script, tmp_path, monkeypatch, capsys
):
    run_script(SCRIPT, *SMALL, "--epoch", 1)
    saved = folder(SCRIPT, "tiny_small_seed7_epoch1") / "best.pth"
    if change == "weights":  # a checkpoint that does not say its own, as those of the original repository
        content = torch.load(saved, weights_only=True)
        del content["setup"]["weights"]
        torch.save(content, saved)
    words = ["tools/evaluate", "--checkpoint", saved, "--output", tmp_path / "kept.json"]
    run_script(*words)
    capsys.readouterr()
    run_script(*words)
    assert "is of this checkpoint and these images" in capsys.readouterr().out
    if change == "images":
        rewrite(small, inverted)
    elif change == "weights":
        other_weights(monkeypatch)
    else:
        words += ["--precision", "bfloat16"]
    anew = run_script(*words)
    assert "is of this checkpoint and these images" not in capsys.readouterr().out
    assert anew == run_script(*words[:3], *words[5:])  # without --output
    assert json.loads((tmp_path / "kept.json").read_text()).items() >= anew.items()


def test_class_names_are_part_of_the_data():
    make_folders(cfg.data_path, "one", classes=("a", "b"))
    make_folders(cfg.data_path, "two", classes=("a", "c"))
    assert fingerprint("one")["classes"] != fingerprint("two")["classes"]
