"""evaluate.py and predict.py: on checkpoints of every method, of the original repository, and on damaged ones."""

import os
import pickle

import pytest
import torch
from make_data import noise, write_image
from test_experiments import METHODS, SMALL, checkpoint, folder
from torch import nn

import cfg
from errors import UserError
from models.visual_prompt import ExpansiveVisualPrompt

pytestmark = pytest.mark.usefixtures("small")
RUN = "tiny_small_seed7_epoch2"


@pytest.fixture
def trained(run_script):
    """The ckpt.pth of a short run of ilm_vp.py."""
    run_script("experiments/cnn/ilm_vp", *SMALL, "--epoch", 2)
    return folder("ilm_vp", RUN) / "ckpt.pth"


@pytest.mark.parametrize("script", METHODS)
def test_evaluation_repeats_the_runs_number(script, run_script):
    result = run_script(script, *SMALL, "--epoch", 2)
    again = run_script("tools/evaluate", "--checkpoint", folder(script, RUN) / "ckpt.pth")
    assert again["acc"] == pytest.approx(result["test_acc_last"], abs=1e-9)


@pytest.mark.parametrize("script", METHODS)
def test_prediction_agrees_with_evaluation(script, run_script, small, capsys):
    run_script(script, *SMALL, "--epoch", 2)
    capsys.readouterr()
    files = sorted((small / "test").rglob("*.png"))
    saved = folder(script, RUN) / "ckpt.pth"
    found = run_script("tools/predict", "--checkpoint", saved, *files)
    right = sum(found[str(file)][0][0] == file.parent.name for file in files)
    assert right / len(files) == pytest.approx(run_script("tools/evaluate", "--checkpoint", saved)["acc"])
    printed = capsys.readouterr().out
    for file in files:
        assert str(file) in printed
        assert sum(probability for _, probability in found[str(file)]) == pytest.approx(1, abs=1e-5)  # only 4 classes


class OriginalPrompt(nn.Module):
    """The parameters of the original repository's prompt, under its names."""

    def __init__(self, size: int):
        super().__init__()
        self.program = nn.Parameter(torch.zeros(3, size, size))
        self.register_buffer("mask", torch.zeros(3, size, size))


def test_our_checkpoint_opens_in_the_original(trained):
    content = checkpoint(trained)
    prompt = OriginalPrompt(64)
    prompt.load_state_dict(content["visual_prompt_dict"])
    assert prompt.mask.sum() == 3 * (64**2 - 32**2)
    torch.optim.Adam(prompt.parameters(), lr=0.01).load_state_dict(content["optimizer_dict"])
    assert content["mapping_sequence"].dtype == torch.int64
    assert content["mapping_sequence"].shape == (4,)
    assert isinstance(content["epoch"], int)
    assert isinstance(content["best_acc"], float)


def test_the_originals_checkpoint_opens_here(trained, run_script, tmp_path, small):
    ours = checkpoint(trained)
    keys = ("visual_prompt_dict", "optimizer_dict", "epoch", "best_acc", "mapping_sequence")
    theirs = tmp_path / "best.pth"
    torch.save({key: ours[key] for key in keys}, theirs)
    with pytest.raises(UserError, match="Add both, for example: --network resnet18 --dataset flowers102"):
        run_script("tools/evaluate", "--checkpoint", theirs)
    words = ("--checkpoint", theirs, "--network", "tiny", "--dataset", "small")
    assert run_script("tools/evaluate", *words) == run_script("tools/evaluate", "--checkpoint", trained)
    image = next((small / "test").rglob("*.png"))
    expected = run_script("tools/predict", "--checkpoint", trained, image)
    assert run_script("tools/predict", *words, image) == expected


def prompt_checkpoint(size: int = 64, mapping=(0, 1, 2, 3)) -> dict:
    state = ExpansiveVisualPrompt(32, size).state_dict()
    return {"visual_prompt_dict": state, "mapping_sequence": torch.tensor(mapping)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (prompt_checkpoint(size=96), r"its prompt is \(3, 96, 96\), the network's input \(3, 64, 64\)"),
        (prompt_checkpoint(mapping=(0, 1, 2, 1000)), "maps to source class 1000, the network has 1000"),
        (prompt_checkpoint(mapping=(0, 1, 2)), "The checkpoint has 3"),
        ({"epoch": 3}, "it holds epoch"),
        ({"head_dict": {"weight": torch.zeros(4, 5), "bias": torch.zeros(4)}}, "its head takes 5 features"),
        ({"visual_prompt_dict": {}, "mapping_sequence": torch.arange(4)}, "should fit --network tiny"),
        ([1, 2], "It holds a list"),
        (prompt_checkpoint() | {"setup": "x"}, "says what it belongs to"),
        (prompt_checkpoint() | {"setup": {"transform": {"siz": 1}}}, "has a size, and may have a crop"),
    ],
)
def test_checkpoints_that_do_not_fit(content, message, run_script, tmp_path):
    file = tmp_path / "x.pth"
    torch.save(content, file)
    with pytest.raises(UserError, match=message):
        run_script("tools/evaluate", "--checkpoint", file, "--network", "tiny", "--dataset", "small")


def test_another_network_or_data_set(trained, run_script):
    with pytest.raises(UserError, match="It was trained with --network tiny"):
        run_script("tools/evaluate", "--checkpoint", trained, "--network", "resnet18")
    with pytest.raises(UserError, match="its classes should be those of the checkpoint"):
        run_script("tools/evaluate", "--checkpoint", trained, "--dataset", "digits")


def test_another_data_set_with_the_same_classes(trained, run_script, small):
    other = cfg.data_path / "other"
    for part in ("train", "test"):
        for label, name in enumerate(("ant", "bee", "cow", "doe")):
            write_image(other / part / name / "1.png", noise(label + 90))
    assert 0 <= run_script("tools/evaluate", "--checkpoint", trained, "--dataset", "other")["acc"] <= 1


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("save", [torch.save, lambda content, file: file.write_bytes(pickle.dumps(content))])
def test_a_malicious_checkpoint_is_refused_and_not_executed(save, run_script, tmp_path):
    proof, file = tmp_path / "executed", tmp_path / "bad.pth"
    save({"visual_prompt_dict": Payload(proof)}, file)
    with pytest.raises(UserError, match=r"refused|cannot be read"):
        run_script("tools/evaluate", "--checkpoint", file, "--network", "tiny", "--dataset", "small")
    assert not proof.exists()
    run = folder("ilm_vp", RUN)
    run.mkdir(parents=True)
    file.rename(run / "ckpt.pth")
    with pytest.raises(UserError, match="--fresh"):
        run_script("experiments/cnn/ilm_vp", *SMALL, "--epoch", 2)
    assert not proof.exists()
    assert (run / "ckpt.pth").exists()


@pytest.mark.parametrize("keep", [0, 100, -100])
def test_a_checkpoint_cut_off(keep, trained, run_script):
    trained.write_bytes(trained.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"cannot be read|refused"):
        run_script("tools/evaluate", "--checkpoint", trained)


def test_no_checkpoint(run_script, tmp_path):
    with pytest.raises(UserError, match="There is no such file"):
        run_script("tools/evaluate", "--checkpoint", tmp_path / "none.pth")


def test_images_that_cannot_be_read_are_named_together(trained, run_script, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(UserError) as caught:
        run_script("tools/predict", "--checkpoint", trained, tmp_path / "text.jpg", tmp_path / "none.png")
    assert "text.jpg" in str(caught.value)
    assert "none.png" in str(caught.value)
