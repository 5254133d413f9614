"""evaluate.py and predict.py: on checkpoints of every method, of the original repository, and on damaged ones."""

import json
import os
import pickle
import shutil

import numpy as np
import open_clip
import pytest
import torch
from make_data import make_corruptions, noise, write_image
from PIL import Image
from test_experiments import SCRIPTS, SMALL, checkpoint, folder, only_run
from tiny import ROOT
from torch import nn

import cfg
from data.transforms import decode, restore_transforms
from errors import UserError
from models.networks import CPU
from models.restore import restore
from models.visual_prompt import ExpansiveVisualPrompt

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("small")]
RUN = "tiny_small_seed7_epoch2"


@pytest.fixture
def trained(run_script):
    """The ckpt.pth of a short run of ilm_vp.py."""
    run_script("experiments/cnn/ilm_vp", *SMALL, "--epoch", 2)
    return folder("ilm_vp", RUN) / "ckpt.pth"


@pytest.mark.parametrize("script", SCRIPTS)
def test_evaluation_repeats_the_runs_number(script, run_script, words, float64):
    result = run_script(script, *words(script), "--epoch", 2)
    again = run_script("tools/evaluate", "--checkpoint", only_run(script) / "ckpt.pth")
    assert again["acc"] == pytest.approx(result["test_acc_last"], abs=1e-9)
    last = json.loads((only_run(script) / "log.jsonl").read_text().splitlines()[-1])
    assert again["loss"] == pytest.approx(last["test_loss"], rel=1e-9)


@pytest.mark.parametrize("script", SCRIPTS)
def test_prediction_agrees_with_evaluation(script, run_script, words, small, capsys, float64):
    run_script(script, *words(script), "--epoch", 2)
    capsys.readouterr()
    files = sorted((small / "test").rglob("*.png"))
    saved = only_run(script) / "ckpt.pth"
    found = run_script("tools/predict", "--checkpoint", saved, *files)
    right = sum(found[str(file)][0][0] == file.parent.name for file in files)
    assert right / len(files) == pytest.approx(run_script("tools/evaluate", "--checkpoint", saved)["acc"])
    printed = capsys.readouterr().out
    for file in files:
        assert str(file) in printed
        assert sum(probability for _, probability in found[str(file)]) == pytest.approx(1, abs=1e-12)  # only 4 classes


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
    with pytest.raises(UserError, match="Type for example: --network resnet18 --dataset flowers102"):
        run_script("tools/evaluate", "--checkpoint", theirs)
    words = ("--checkpoint", theirs, "--network", "tiny", "--dataset", "small")
    assert run_script("tools/evaluate", *words) == run_script("tools/evaluate", "--checkpoint", trained)
    image = next((small / "test").rglob("*.png"))
    expected = run_script("tools/predict", "--checkpoint", trained, image)
    assert run_script("tools/predict", *words, image) == expected


def test_prediction_turns_images_upright(trained, run_script, small, tmp_path):
    """As a telephone saves a photograph that was taken upright."""
    image = next((small / "test").rglob("*.png"))
    exif = Image.Exif()
    exif[0x0112] = 6  # the file's left column is on top
    with Image.open(image) as opened:
        opened.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "sideways.png", exif=exif)
    upright, sideways = run_script("tools/predict", "--checkpoint", trained, image, tmp_path / "sideways.png").values()
    assert upright == sideways


def test_a_file_of_the_version_before_opens(run_script):
    """`tests/files/version_before.pth` was written by it: ilm_vp.py on this network and these images, 3 epochs."""
    found = run_script("tools/evaluate", "--checkpoint", ROOT / "tests/files/version_before.pth")
    assert found["acc"] == pytest.approx(0.3, abs=0.051)  # 6 of 20 images; rounding may move one
    # The logits are sums of some thousand float32 terms, up to 50 in size: off by 50 * 2^-24 * sqrt(1000) = 1e-4.
    assert found["loss"] == pytest.approx(2.232025718688965, abs=1e-3)


OLDER = {  # how the version before wrote the evaluation transforms of a script
    "experiments/cnn/evp": {"size": 46, "crop": None, "random": False, "shorter": True, "bicubic": True},
    "experiments/clip/evp": {"size": 24, "crop": None, "random": False, "shorter": True, "bicubic": True},
    "experiments/cnn/linear_probing": {"size": 64},
    "experiments/cnn/full_finetune": {"size": 73, "crop": 64},
    **{f"experiments/cnn/{name}_vp": {"size": 32} for name in ("rlm", "flm", "ilm")},
}


QUICK = [f"experiments/{name}" for name in ("cnn/ilm_vp", "cnn/full_finetune", "clip/evp", "clip/linear_probing")]
BEFORE = [f"experiments/cnn/{name}" for name in ("rlm_vp", "flm_vp", "evp", "linear_probing")]
BEFORE += [f"experiments/clip/{name}" for name in ("ilm_tp_vp", "single_tp_vp", "vp", "full_finetune")]
OTHERS = [pytest.param(script, marks=pytest.mark.slow) for script in BEFORE]


@pytest.mark.parametrize("script", [*QUICK, *OTHERS])
def test_checkpoints_of_the_version_before_open(script, run_script, words):
    """Their setup names the prompt's class alone, and its transforms in one dict of switches."""
    run_script(script, *words(script), "--epoch", 1)
    saved = only_run(script) / "ckpt.pth"
    expected = run_script("tools/evaluate", "--checkpoint", saved)
    content = checkpoint(saved)
    setup = content["setup"]
    described = setup.pop("prompt", None), setup.pop("mapping", None), setup.pop("loading", None)
    assert any(described)
    setup["transform"] = OLDER.get(script, {"size": 32, "shorter": True, "bicubic": True})
    if described[0]:
        setup["classes"] = {"visual_prompt_dict": described[0]["class"].rpartition(".")[2]}
    torch.save(content, saved)
    assert run_script("tools/evaluate", "--checkpoint", saved) == expected


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_torchscript_archive_is_no_checkpoint(run_script, tmp_path):
    """Older versions of torch would run its code, whatever `weights_only` says."""
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "x.pth")
    with pytest.raises(UserError, match="holds more than tensors and plain values: refused"):
        run_script("tools/evaluate", "--checkpoint", tmp_path / "x.pth")


CLASSES = ["ant", "bee", "cow", "doe"]
SETUP = {"network": "tiny", "dataset": "small", "class_names": CLASSES, "transform": {"size": 32}}


def prompt_checkpoint(size: int = 64, mapping=(0, 1, 2, 3)) -> dict:
    state = ExpansiveVisualPrompt(32, size).state_dict()
    return {"visual_prompt_dict": state, "mapping_sequence": torch.tensor(mapping)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (prompt_checkpoint(size=96), r"its prompt is \(3, 96, 96\), the network's input \(3, 64, 64\)"),
        (prompt_checkpoint(mapping=(0, 1, 2, 1000)), "maps to source class 1000, the network has 1000"),
        (prompt_checkpoint(mapping=(0, 1, 2)), "The checkpoint has 3"),
        (prompt_checkpoint(mapping=(0, 1, 2, -1)), "its mapping has not been made"),
        ({"epoch": 3}, "it holds epoch"),
        ({"head_dict": {"weight": torch.zeros(4, 5), "bias": torch.zeros(4)}}, "its head takes 5 features"),
        ({"visual_prompt_dict": {}, "mapping_sequence": torch.arange(4)}, "should fit --network tiny"),
        ([1, 2], "It holds a list"),
        (prompt_checkpoint() | {"setup": "x"}, "says what it belongs to"),
        (prompt_checkpoint() | {"setup": {"transform": {"size": 1}}}, "says what it belongs to"),
        (prompt_checkpoint() | {"setup": SETUP | {"clip": 3}}, "says what it belongs to"),
        (prompt_checkpoint() | {"setup": SETUP | {"transform": {"siz": 1}}}, "has a size, and may have a crop"),
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


def test_class_names_in_another_order_are_matched_by_name(trained, run_script, small):
    """Two split files of the same images: once the classes count up, once down."""
    results = {}
    for name, order in (("up", (0, 1, 2, 3)), ("down", (3, 2, 1, 0))):
        rows = {
            part: [
                [f"{part}/{kind}/{file.name}", label, kind]
                for label, kind in zip(order, ("ant", "bee", "cow", "doe"), strict=True)
                for file in sorted((small / part / kind).iterdir())
            ]
            for part in ("train", "test")
        }
        (cfg.data_path / name).mkdir()
        (cfg.data_path / name / "split.json").write_text(json.dumps(rows))
        (cfg.data_path / name / "images").symlink_to(small, target_is_directory=True)
        results[name] = run_script("tools/evaluate", "--checkpoint", trained, "--dataset", name)
    assert results["up"] == results["down"]


@pytest.mark.parametrize(
    "script", ["experiments/cnn/ilm_vp", "experiments/clip/evp", "experiments/clip/linear_probing"]
)
def test_corruptions(script, run_script, words, tmp_path, capsys, float64):
    run_script(script, *words(script), "--epoch", 1)
    make_corruptions(tmp_path / "c", num_classes=4, each=6, side=32)
    saved = only_run(script) / "ckpt.pth"
    capsys.readouterr()
    result = run_script("tools/evaluate", "--checkpoint", saved, "--corruptions", tmp_path / "c", "--batch-size", 4)
    assert result["acc"] == run_script("tools/evaluate", "--checkpoint", saved)["acc"]
    assert list(result["corruptions"]) == ["brightness", "frost"]

    checkpoint_, transforms = checkpoint(saved), restore_transforms(checkpoint(saved)["setup"], None)
    model = restore(checkpoint_, checkpoint_["setup"], CPU)
    labels = np.load(tmp_path / "c" / "labels.npy")
    for name, accuracies in result["corruptions"].items():
        images = np.load(tmp_path / "c" / f"{name}.npy")
        pixels = np.stack([decode(transforms, Image.fromarray(image)) for image in images])
        with torch.no_grad():
            predicted = model(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255).argmax(1).numpy()
        each = len(images) // 5
        by_hand = [(predicted == labels)[s * each : (s + 1) * each].mean() for s in range(5)]
        assert accuracies == pytest.approx(by_hand)
    means = [sum(accuracies) / 5 for accuracies in result["corruptions"].values()]
    assert result["corruptions_acc"] == pytest.approx(sum(means) / 2)
    printed = capsys.readouterr().out.splitlines()
    frost = next(line for line in printed if line.startswith("frost"))
    shown = [*result["corruptions"]["frost"], sum(result["corruptions"]["frost"]) / 5]
    assert frost.split()[1:] == [f"{value:.4f}" for value in shown]
    assert any(line.split() == ["clean", f"{result['acc']:.4f}"] for line in printed)


def test_an_evaluation_that_is_kept_is_told_again_but_not_of_other_files(run_script, words, tmp_path, capsys):
    script = "experiments/cnn/rlm_vp"
    run_script(script, *words(script), "--epoch", 1)
    make_corruptions(tmp_path / "c", num_classes=4, each=6, side=32)
    saved, kept = only_run(script) / "best.pth", only_run(script) / "corruptions.json"
    evaluation = ("tools/evaluate", "--checkpoint", saved, "--corruptions", tmp_path / "c", "--output", kept)
    first = run_script(*evaluation)
    assert json.loads(kept.read_text()).items() >= first.items()
    capsys.readouterr()
    assert run_script(*evaluation)["corruptions"] == first["corruptions"]
    assert f"{kept} is of this checkpoint" in capsys.readouterr().out
    table = run_script("tools/results_table", "--metric", "corruptions")
    assert f"| {100 * first['corruptions_acc']:.1f} " in table.replace("**", "") and "best.pth on corrupted" in table

    run_script(script, *words(script), "--epoch", 1, "--lr", 0.5, "--fresh")
    other = next(path for path in (cfg.results_path / "cnn/rlm_vp").iterdir() if "lr0.5" in path.name)
    capsys.readouterr()
    run_script("tools/evaluate", "--checkpoint", other / "best.pth", *evaluation[3:])
    assert "is of this checkpoint" not in capsys.readouterr().out
    kept.write_text("{")
    with pytest.raises(UserError, match=r"corruptions\.json is read"):
        run_script(*evaluation)


def test_corrupted_labels_are_put_into_the_order_of_the_checkpoint(run_script, words, small, tmp_path, float64):
    """A split file that counts the classes backwards; corrupted images that are its test images, five times."""
    rows = {
        part: [
            [f"{part}/{kind}/{file.name}", 3 - label, kind]
            for label, kind in enumerate(("ant", "bee", "cow", "doe"))
            for file in sorted((small / part / kind).iterdir())
        ]
        for part in ("train", "test")
    }
    (small / "split.json").write_text(json.dumps(rows))
    for row in rows.values():
        row.sort()
    folder_ = tmp_path / "c"
    folder_.mkdir()
    images = [np.asarray(Image.open(small / file).resize((32, 32))) for file, _, _ in rows["test"]]
    np.save(folder_ / "fog.npy", np.stack(images * 5))
    np.save(folder_ / "labels.npy", np.array([3 - label for _, label, _ in rows["test"]] * 5))
    script = "experiments/cnn/full_finetune"
    run_script(script, *words(script), "--epoch", 3)
    saved = only_run(script) / "ckpt.pth"
    found = run_script("tools/evaluate", "--checkpoint", saved, "--corruptions", folder_)["corruptions"]["fog"]
    model = restore(checkpoint(saved), checkpoint(saved)["setup"], CPU)
    transforms = restore_transforms(checkpoint(saved)["setup"], None)
    pixels = np.stack([decode(transforms, Image.fromarray(image)) for image in images])
    predicted = model(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255).argmax(1)
    expected = (predicted == torch.tensor([label for _, label, _ in rows["test"]])).float().mean().item()
    assert found == pytest.approx([expected] * 5)


def test_corruptions_of_other_classes_are_refused_before_anything_is_evaluated(trained, run_script, tmp_path):
    make_corruptions(tmp_path / "c", num_classes=3, each=6)
    with pytest.raises(UserError, match="Expected: 0 to 3"):
        run_script("tools/evaluate", "--checkpoint", trained, "--corruptions", tmp_path / "c")


# CLIP ---------------------------------------------------------------------------------------------------------------


def test_the_originals_clip_checkpoint_opens_here(run_script, words, tiny_clip, tmp_path, small, float64):
    script = "experiments/clip/ilm_tp_vp"
    run_script(script, *words(script), "--epoch", 2)
    ours = checkpoint(only_run(script) / "ckpt.pth")
    keys = ("visual_prompt_dict", "optimizer_dict", "epoch", "best_acc", "mapping_sequence")
    theirs = tmp_path / "theirs.pth"
    torch.save({key: ours[key] for key in keys}, theirs)
    pretrained = ("--pretrained", tiny_clip["--pretrained"])
    for flags in ((), pretrained, (*sum(tiny_clip.items(), ()), "--network", "tiny")):
        with pytest.raises(UserError, match="or for CLIP: --clip-model"):
            run_script("tools/evaluate", "--checkpoint", theirs, "--dataset", "small", *flags)
    flags = ("--checkpoint", theirs, "--dataset", "small", *sum(tiny_clip.items(), ()))
    expected = run_script("tools/evaluate", "--checkpoint", only_run(script) / "ckpt.pth")
    found = run_script("tools/evaluate", *flags)
    assert found.pop("per_class") == expected.pop("per_class")
    assert found == pytest.approx(expected)
    image = next((small / "test").rglob("*.png"))
    assert run_script("tools/predict", *flags, image)


def test_clips_weights_may_have_moved(run_script, words, tiny_clip, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    files = {flag: shutil.copy(file, moved) for flag, file in tiny_clip.items()}
    script = "experiments/clip/single_tp_vp"
    run_script(script, *sum(files.items(), ()), "--dataset", "small", "--epoch", 1)
    saved = only_run(script) / "ckpt.pth"
    expected = run_script("tools/evaluate", "--checkpoint", saved)
    shutil.rmtree(moved)
    with pytest.raises(UserError, match="--clip-config"):
        run_script("tools/evaluate", "--checkpoint", saved)
    assert run_script("tools/evaluate", "--checkpoint", saved, *sum(tiny_clip.items(), ())) == expected


def test_clip_flags_do_not_fit_another_network(trained, run_script):
    with pytest.raises(UserError, match=r"ViT-B-32: the checkpoint's own network is needed(.|\n)*--network tiny"):
        run_script("tools/evaluate", "--checkpoint", trained, "--clip-model", "ViT-B-32")


def test_an_ilm_tp_vp_checkpoint_encodes_only_the_chosen_text_prompts(run_script, words, monkeypatch):
    script = "experiments/clip/ilm_tp_vp"
    run_script(script, *words(script), "--epoch", 1)
    encoded, encode = [], open_clip.CLIP.encode_text
    monkeypatch.setattr(open_clip.CLIP, "encode_text", lambda s, t, n=False: encoded.append(len(t)) or encode(s, t, n))
    run_script("tools/evaluate", "--checkpoint", only_run(script) / "ckpt.pth")
    assert encoded == [4]
