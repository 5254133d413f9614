"""The tiny CLIP that README's offline experiment starts from: it learns, and never sees test images."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import load_script

from data.catalog import find_dataset
from errors import UserError

pytestmark = pytest.mark.numeric
FILES = {"pretrained": "pt", "clip-config": "json"}


@pytest.mark.slow
def test_it_learns_and_opens_as_a_clip(run_script, tmp_path, float64):
    record = run_script("tools/make_tiny_clip", tmp_path / "made" / "here", "--epoch", 8)
    assert record["train_acc"] > 0.5
    config, weights = (str(tmp_path / "made" / "here" / f"tiny-clip.{end}") for end in ("json", "pt"))
    assert json.loads(Path(config).read_text())["vision_cfg"]["image_size"] == 32
    flags = ("--pretrained", weights, "--clip-config", config)
    zero_shot = run_script("experiments/clip/zero_shot", *flags, "--dataset", "digits")
    # the same accuracy, from the same images and text prompts, through the other room's code
    assert zero_shot["test_acc_last"] == pytest.approx(record["test_acc"], abs=1e-9)
    shifted = run_script("experiments/clip/zero_shot", *flags, "--dataset", "digits_inverted")
    assert shifted["test_acc_last"] < zero_shot["test_acc_last"] - 0.2


def test_the_shifted_test_images_were_never_trained_on():
    """Image by image: the prompt's and the CLIP's training images have no test image among them, inverted or not."""
    plain, inverted = find_dataset("digits").read(), find_dataset("digits_inverted").read()
    seen = {np.asarray(plain.train.open(i)).tobytes() for i in range(len(plain.train))}
    for part in ("val", "test"):
        images = [np.asarray(getattr(inverted, part).open(i)) for i in range(len(getattr(inverted, part)))]
        unseen = sum((255 - image).tobytes() not in seen for image in images)
        assert unseen == len(images)


def test_a_short_training_opens_as_a_clip(run_script, tmp_path, small, float64):
    record = run_script("tools/make_tiny_clip", tmp_path / "made", "--dataset", "small", "--epoch", 1)
    files = {f"--{flag}": tmp_path / "made" / f"tiny-clip.{end}" for flag, end in FILES.items()}
    zero_shot = run_script("experiments/clip/zero_shot", *sum(files.items(), ()), "--dataset", "small")
    assert zero_shot["test_acc_last"] == pytest.approx(record["test_acc"], abs=1e-9)


def test_same_seed_same_weights(tmp_path, small):
    module = load_script("tools/make_tiny_clip")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        module.main([str(tmp_path / name), "--dataset", "small", "--epoch", "1", "--seed", str(seed)])
    a, b, c = (torch.load(tmp_path / name / "tiny-clip.pt", weights_only=True) for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["visual.proj"], c["visual.proj"])


def test_a_folder_that_cannot_be_written_is_told_before_training(run_script, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("algorithms.training.fit", None)
    with pytest.raises(UserError, match="file"):
        run_script("tools/make_tiny_clip", tmp_path / "file" / "x")
    with pytest.raises(UserError, match="Did you mean --dataset digits"):
        run_script("tools/make_tiny_clip", tmp_path / "x", "--dataset", "digit")
