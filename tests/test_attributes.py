"""AttrVR: its logits by hand, its files, its baselines, and a checkpoint that needs no files."""

import json
import shutil

import pytest
import torch
from make_data import make_attributes
from test_experiments import checkpoint, only_run
from test_settings import CLIPS_OWN, arguments_of_fit, listed, same_transforms
from torchvision.transforms import v2

import cfg
from data.attributes import read_attributes
from errors import UserError
from models.sentence_mapping import NearestSentences

SCRIPT = "experiments/clip/attr_vr"
CLASSES = ("ant", "bee", "cow", "doe")
# An image (1,0), CLIP's scale 10, and 3 sentences of 2 classes
TEXTS = torch.tensor([[[1.0, 0], [0, 1]], [[0.6, 0.8], [0.8, 0.6]], [[0, 1], [1, 0]]])
LOGITS = 10 * TEXTS[..., 0].reshape(1, 6)


@pytest.mark.parametrize(("nearest", "expected"), [(1, [10.0, 10.0]), (2, [8.0, 9.0]), (3, [16 / 3, 6.0])])
def test_the_nearest_sentences_by_hand(nearest, expected):
    mapping = NearestSentences(2, 3, nearest, [1.0])
    torch.testing.assert_close(mapping(LOGITS), torch.tensor([expected]))


def test_two_banks_are_weighted():
    """The second bank has both classes the other way round: 0.25 (8, 9) + 0.75 (9, 8)."""
    other = LOGITS.view(3, 2).flip(1).reshape(1, 6)
    both = NearestSentences(2, 3, 2, [0.25, 0.75])(torch.cat([LOGITS, other], dim=1))
    torch.testing.assert_close(both, torch.tensor([[8.75, 8.25]]))


def test_the_gradient_flows_through_the_chosen_sentences():
    logits = LOGITS.clone().requires_grad_()
    NearestSentences(2, 3, 2, [1.0])(logits)[0, 0].backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.5, 0, 0.5, 0, 0, 0]]))


def test_each_image_chooses_its_own():
    mapping, logits = NearestSentences(5, 7, 3, [0.5, 0.5]), torch.randn(4, 2 * 7 * 5)
    for image in range(4):
        for target in range(5):
            own = [logits[image, bank * 35 + target : bank * 35 + 35 : 5].sort().values[-3:].mean() for bank in (0, 1)]
            assert mapping(logits)[image, target].item() == pytest.approx(sum(own).item() / 2, abs=1e-5)
    assert mapping.sources[3].tolist() == list(range(3, 70, 5))


def test_more_nearest_sentences_than_there_are():
    with pytest.raises(UserError, match=r"--nearest 4(.|\n)*Each class has 3"):
        NearestSentences(2, 3, 4, [1.0])


def test_sentences_are_drawn_without_replacement_if_there_are_enough(tmp_path):
    make_attributes(tmp_path)
    for number in (20, 25):
        banks = read_attributes(tmp_path, "small", CLASSES, number, seed=3)
        for bank, kind in zip(banks, ("descriptive", "distinctive"), strict=True):
            assert len(bank) == 4 * number
            for target, name in enumerate(CLASSES):
                assert len(set(bank[target::4])) == number
                assert all(f"the {name}, {kind}" in sentence for sentence in bank[target::4])
    banks = read_attributes(tmp_path, "small", CLASSES, 30, seed=3)
    assert len(set(banks[0][0::4])) < 26
    assert banks == read_attributes(tmp_path, "small", CLASSES, 30, seed=3)
    assert banks != read_attributes(tmp_path, "small", CLASSES, 30, seed=4)


def test_short_sentences_are_left_out_and_names_may_be_spelt_otherwise(tmp_path, capsys):
    content = {"Red_Ant": ["x" * 20, "x" * 19], "bee": ["y" * 20], "not-there": ["z" * 20]}
    for bank in ("descriptive", "distinctive"):
        (tmp_path / f"mine_{bank}.json").write_text(json.dumps(content))
    banks = read_attributes(tmp_path, "mine", ("red ant", "bee"), 2, seed=0)
    assert banks == [["x" * 20, "y" * 20] * 2] * 2
    assert capsys.readouterr().out.count("describes 1 more class, which the data set lacks") == 2


WRONG = {
    "none": (None, r"small_distinctive\.json is needed there(.|\n)*No such file"),
    "no JSON": ("{", "cannot be read: Expecting"),
    "a list": ("[]", "it is no JSON object"),
    "no list": ('{"ant": "a sentence"}', "the value of 'ant' is no list of sentences"),
    "no sentence": ('{"ant": [3]}', "the value of 'ant' is no list of sentences"),
    "deep": ("[" * 100_000, "cannot be read"),
    "no class": ('{"ant": ["a sentence that is long"], "bee": ["short"]}', "none for bee, cow, doe"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_one_message(content, message, tmp_path):
    make_attributes(tmp_path)
    file = tmp_path / "small_distinctive.json"
    file.write_text(content) if content is not None else file.unlink()
    with pytest.raises(UserError, match=message) as caught:
        read_attributes(tmp_path, "small", CLASSES, 3, seed=0)
    assert len(str(caught.value).splitlines()) == 3


FLAGS = {
    "no folder": ((), r"No folder is given(.|\n)*small_descriptive\.json"),
    "a folder without files": (("--attributes", "nowhere"), "nowhere(.|\n)*docs/methods.md describes it"),
    "not heeded": (("--method", "ar", "--nearest", 2), "the method ar has no such setting(.|\n)*attr_vr"),
    "no template": (("--attributes", "a", "--template", "a {}"), "the method attr_vr has no such setting(.|\n)*ar, vp"),
    "alpha": (("--alpha", "1.5"), "at most 1"),
    "too few": (("--attributes", "nowhere", "--descriptions", 2), r"--nearest 3(.|\n)*Each class has 2\."),
}


@pytest.mark.parametrize(("flags", "message"), FLAGS.values(), ids=FLAGS)
def test_a_mistake_is_one_message_and_leaves_nothing(flags, message, small, run_script, words):
    network = words(SCRIPT)[:6]
    with pytest.raises(UserError, match=message) as caught:
        run_script(SCRIPT, *network, *flags)
    assert len(str(caught.value).splitlines()) == 3
    assert not list(cfg.results_path.rglob("args.json"))


@pytest.mark.numeric
def test_the_checkpoint_needs_no_files_and_other_sentences_are_another_run(small, run_script, words):
    flags = (*words(SCRIPT), "--epoch", 1, "--shots", 4, "--val-shots", 2, "--descriptions", 5, "--nearest", 2)
    result = run_script(SCRIPT, *flags)
    saved = only_run(SCRIPT) / "ckpt.pth"
    texts = checkpoint(saved)["setup"]["clip"]["texts"]
    assert len(texts) == 2 * 5 * 4
    assert (result["train_size"], result["val_size"]) == (16, 8)
    folder = cfg.data_path / "attributes"
    shutil.move(folder, folder.with_name("away"))
    assert run_script("tools/evaluate", "--checkpoint", saved)["acc"] == result["test_acc_last"]
    file = make_attributes(folder) / "small_descriptive.json"
    file.write_text(file.read_text().replace("Feature", "Property"))
    with pytest.raises(UserError, match=r"texts .*, not"):
        run_script(SCRIPT, *flags)


@pytest.mark.numeric
def test_the_baselines(small, words, monkeypatch):
    network = words(SCRIPT)[:6]
    seen = {}
    for method in ("ar", "vp"):
        seen[method] = arguments_of_fit(SCRIPT, ("--method", method), lambda _: network, monkeypatch)
        model = seen[method]["model"]
        assert model.network.class_names == tuple(f"This is a photo of {name}." for name in CLASSES)
        x = torch.rand(2, 3, *([27, 27] if method == "ar" else [32, 32]))
        torch.testing.assert_close(model(x), model.source_logits(x))
        assert torch.all(model.prompt.program == 0)
    assert type(seen["ar"]["model"].prompt).__name__ == "ExpansiveVisualPrompt"
    assert same_transforms(seen["ar"]["eval"], listed(27, shorter=True, bicubic=True))
    assert type(seen["vp"]["model"].prompt).__name__ == "AdditiveVisualPrompt"
    assert seen["vp"]["model"].prompt.mask[0].sum() == 32**2 - 24**2
    assert same_transforms(seen["vp"]["eval"], CLIPS_OWN)
    crops = [CLIPS_OWN[0], v2.RandomResizedCrop(32), v2.RandomHorizontalFlip()]
    assert same_transforms(seen["vp"]["train"], crops)
