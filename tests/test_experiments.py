"""Every script, end to end on small data: what it writes, how it resumes, and what it refuses."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import load_script, same
from make_data import make_folders
from tiny import TINY

import cfg
from algorithms.predictions import count_predictions
from errors import RunError, UserError
from models.network_source import NETWORKS
from models.networks import Network
from tools.common.run_folder import RunFolder
from tools.reporting.drawings import sources_by_epoch

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("small")]

METHODS = {  # script -> the checkpoint's key of what it learns
    "experiments/cnn/rlm_vp": "visual_prompt_dict",
    "experiments/cnn/flm_vp": "visual_prompt_dict",
    "experiments/cnn/ilm_vp": "visual_prompt_dict",
    "experiments/cnn/blm_vp": "visual_prompt_dict",
    "experiments/cnn/blmp_vp": "visual_prompt_dict",
    "experiments/cnn/fully_vp": "visual_prompt_dict",
    "experiments/cnn/semantic_vp": "visual_prompt_dict",
    "experiments/cnn/evp": "visual_prompt_dict",
    "experiments/cnn/smm": "visual_prompt_dict",
    "experiments/cnn/watermark_vp": "visual_prompt_dict",
    "experiments/cnn/lor_vp": "visual_prompt_dict",
    "experiments/cnn/auto_vp": "visual_prompt_dict",
    "experiments/cnn/acavp": "visual_prompt_dict",
    "experiments/cnn/ares": "visual_prompt_dict",
    "experiments/cnn/bar": "visual_prompt_dict",
    "experiments/cnn/dam_vp": "visual_prompt_dict",
    "experiments/cnn/c_avp": "visual_prompt_dict",
    "experiments/cnn/linear_probing": "head_dict",
    "experiments/cnn/full_finetune": "network_dict",
    "experiments/clip/ilm_tp_vp": "visual_prompt_dict",
    "experiments/clip/single_tp_vp": "visual_prompt_dict",
    "experiments/clip/blm_vp": "visual_prompt_dict",
    "experiments/clip/blmp_vp": "visual_prompt_dict",
    "experiments/clip/fully_vp": "visual_prompt_dict",
    "experiments/clip/vp": "visual_prompt_dict",
    "experiments/clip/evp": "visual_prompt_dict",
    "experiments/clip/acavp": "visual_prompt_dict",
    "experiments/clip/attr_vr": "visual_prompt_dict",
    "experiments/clip/ares": "visual_prompt_dict",
    "experiments/clip/dvp": "visual_prompt_dict",
    "experiments/clip/rvp": "visual_prompt_dict",
    "experiments/clip/bar": "visual_prompt_dict",
    "experiments/clip/blackvip": "visual_prompt_dict",
    "experiments/clip/linear_probing": "head_dict",
    "experiments/clip/full_finetune": "network_dict",
}
# These are made of parts that the other scripts run, or that have tests of their own.
RARE = {f"experiments/{name}_vp" for name in "cnn/blm clip/blm clip/blmp cnn/fully cnn/semantic cnn/watermark".split()}
RARE |= {f"experiments/{name}" for name in ("clip/fully_vp", "cnn/acavp", "clip/acavp", "clip/attr_vr")}
RARE |= {"experiments/clip/ares"}
RARE |= {"experiments/clip/dvp", "experiments/clip/rvp"}
RARE |= {"experiments/clip/bar", "experiments/clip/blackvip"}
RARE |= {"experiments/cnn/c_avp"}
SCRIPTS = [pytest.param(script, marks=pytest.mark.slow) if script in RARE else script for script in METHODS]
PROMPTS = [script for script, key in METHODS.items() if key == "visual_prompt_dict"]
ILM_VP = ("experiments/cnn/rlm_vp", "experiments/cnn/flm_vp", "experiments/cnn/ilm_vp")
SMALL = ("--network", "tiny", "--dataset", "small")


def folder(script: str, name: str):
    return cfg.results_path / "cnn" / script.rsplit("/", 1)[-1] / name


def only_run(script: str):
    """The folder of the one run of a script that there is."""
    (run,) = (cfg.results_path / script.removeprefix("experiments/")).iterdir()
    return run


def checkpoint(path) -> dict:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_leaves_its_receipt(script, run_script, words, capsys, figures):
    result = run_script(script, *words(script), "--epoch", 2)
    run = only_run(script)
    network = "tiny-clip-[0-9a-f]{6}" if "/clip/" in script and not script.endswith("ares") else "tiny"
    assert re.match(f"{network}_small_seed7_epoch2(_|$)", run.name)
    assert json.loads((run / "result.json").read_text()) == result
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    expected = {
        "method": script.removeprefix("experiments/"),
        "status": "finished",
        "epochs": 2,
        "classes": 4,
        "train_size": 24,
        "val_size": 12,
        "test_size": 20,
        "batch_size": 8,
        "test_acc_last": lines[-1]["test_acc"],
        "test_acc_best": max(line["test_acc"] for line in lines),
        "test_acc_at_best_val": max(lines, key=lambda line: line["val_acc"])["test_acc"],
        "train_acc_last": lines[-1]["train_acc"],
        "device": "cpu",
        "precision": "float32",
    }
    assert {name: result[name] for name in expected} == expected
    assert all(0 <= line[f"{split}_acc"] <= 1 for line in lines for split in ("train", "val", "test"))
    told = json.loads((run / "test_predictions.json").read_text())
    assert (told["epoch"], told["class_names"]) == (2, ["ant", "bee", "cow", "doe"])
    right = [label == predicted for label, predicted in zip(told["labels"], told["predicted"], strict=True)]
    assert (len(right), sum(right) / 20) == (20, lines[-1]["test_acc"])
    saved = checkpoint(run / "ckpt.pth")
    assert {METHODS[script], "optimizer_dict", "epoch", "best_acc", "setup"} <= saved.keys()
    assert (saved["epoch"], saved["best_acc"]) == (1, result["test_acc_best"])
    assert checkpoint(run / "best.pth")["epoch"] == result["kept_epoch"] - 1
    pictures = {"curves.png"} | ({"mapping.png", "prompt.png"} if script in PROMPTS else set())
    assert {path.name for path in run.glob("*.png")} == pictures
    assert any((run / "tensorboard").iterdir())
    assert str(run) in capsys.readouterr().out
    if script in PROMPTS:
        assert list(result["mapping"]) == ["ant", "bee", "cow", "doe"]
        one_to_one = "mapping_sequence" in saved and script != "experiments/cnn/evp"
        assert len(set(result["mapping"].values())) == 4 or not one_to_one


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        *(pytest.param(s, (), marks=pytest.mark.slow if s in RARE else ()) for s in METHODS),
        ("experiments/cnn/auto_vp", ("--scale", 1.0, "--trainable-scale", "--mapping", "ilm", "--sources", 2)),
        ("experiments/cnn/ilm_vp", ("--mapping-source", "train")),
        ("experiments/cnn/ilm_vp", ("--mapping-source", "train", "--mapping-counts", "probabilities", "--sources", 2)),
        ("experiments/cnn/blmp_vp", ("--mapping-source", "train", "--mapping-interval", 2)),
        ("experiments/clip/vp", ("--method", "random_patch")),
        ("experiments/clip/vp", ("--black-box", "--passes", 1, "--budget", 95)),  # 30 an epoch
        ("experiments/cnn/bar", ("--mapping", "ilm", "--mapping-source", "train")),
    ],
)
def test_stopped_and_continued_equals_uninterrupted_to_the_bit(script, flags, run_script, words, monkeypatch, capsys):
    words = (*words(script), *flags, "--epoch", 4)
    whole = run_script(script, *words)
    run = only_run(script)
    expected = {name: checkpoint(run / name) for name in ("ckpt.pth", "best.pth")}
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]

    end_epoch = RunFolder.end_epoch

    def interrupt(self, epoch, record):
        end_epoch(self, epoch, record)
        if epoch == 1:
            self.log.append(
                {**self.log.records[-1], "epoch": 3}
            )  # as if the next epoch's line were written, its checkpoint not
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "end_epoch", interrupt)
    with pytest.raises(UserError, match=r"To continue: python .*--epoch 4$") as caught:
        run_script(script, *words, "--fresh")
    assert caught.value.exit_code == 130
    assert json.loads((run / "result.json").read_text())["status"] == "interrupted"
    monkeypatch.setattr(RunFolder, "end_epoch", end_epoch)
    torch.manual_seed(12345)
    again = run_script(script, *words)
    assert "Continuing after epoch 2 of 4" in capsys.readouterr().out

    times = ("seconds", "images_per_second", "figure_seconds")
    assert {k: v for k, v in again.items() if k not in times} == {k: v for k, v in whole.items() if k not in times}
    assert all(same(checkpoint(run / name), content) for name, content in expected.items())
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in line.items() if k not in times} for line in lines] == [
        {k: v for k, v in line.items() if k not in times} for line in log
    ]


def test_a_finished_run_is_told_again_and_not_trained_again(run_script, monkeypatch, capsys):
    words = ("experiments/cnn/rlm_vp", *SMALL, "--epoch", 1)
    first = run_script(*words)
    told = capsys.readouterr().out.partition("\nTest accuracy")[2]
    monkeypatch.setattr("algorithms.training.fit", None)
    assert run_script(*words) == first
    assert capsys.readouterr().out.partition("\nTest accuracy")[2] == told


@pytest.mark.parametrize("script", ILM_VP)
def test_only_the_border_learns_and_the_network_stays(script, run_script, monkeypatch):
    built = []
    row = TINY.__class__(lambda: built.append(TINY.build()) or built[-1], input_size=64)
    monkeypatch.setitem(NETWORKS, "tiny", row)
    run_script(script, *SMALL, "--epoch", 2, "--plain")
    run = folder(script, "tiny_small_seed7_epoch2_plain")
    program = checkpoint(run / "ckpt.pth")["visual_prompt_dict"]["program"]
    assert torch.all(program[:, 16:48, 16:48] == 0)
    border = torch.ones(64, 64, dtype=torch.bool)
    border[16:48, 16:48] = False
    assert (program[:, border] != 0).float().mean() > 0.8  # the tiny network's strides leave some pixels unseen
    assert len(built) == 1
    assert same(dict(built[0].state_dict()), dict(TINY.build().state_dict()))


def test_the_methods_differ_in_their_map_alone(run_script):
    maps, logs = {}, {}
    for script in ILM_VP:
        run_script(script, *SMALL, "--epoch", 3, "--lr", 0.5)
        run = folder(script, "tiny_small_seed7_epoch3_lr0.5")
        maps[script] = checkpoint(run / "ckpt.pth")["mapping_sequence"]
        logs[script] = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    rlm, flm, ilm = (logs[script] for script in ILM_VP)
    assert "remapped" not in rlm[0]
    assert [line.get("remapped") for line in flm] == [1.0, None, None]
    assert ilm[0]["remapped"] == 1.0
    assert all(0 <= line["remapped"] <= 1 for line in ilm)
    assert all(len(line["new_sources"]) == 4 * line["remapped"] for line in ilm)
    last = sources_by_epoch(ilm)[-1]
    assert last == json.loads((run / "result.json").read_text())["mapping"]
    times = ("seconds", "images_per_second", "figure_seconds")
    assert all(ilm[0][key] == flm[0][key] for key in flm[0] if key not in times)  # the first map is the same
    assert not torch.equal(maps[ILM_VP[0]], maps[ILM_VP[1]])


def test_mapping_interval(run_script):
    run_script("experiments/cnn/ilm_vp", *SMALL, "--epoch", 4, "--mapping-interval", 3)
    run = folder("ilm_vp", "tiny_small_seed7_epoch4_mapping-interval3")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert ["remapped" in line for line in lines] == [True, False, False, True]


@pytest.mark.parametrize("script", ["experiments/cnn/ilm_vp", "experiments/clip/ilm_tp_vp"])
def test_a_map_from_the_training_passes(script, words, monkeypatch, float64):
    """If the prompt does not change, training predicts what an extra pass would predict; and there is no extra pass."""
    module, passes, maps = load_script(script), [], {}
    monkeypatch.setattr(
        "tools.common.run.count_predictions", lambda *args: passes.append(1) or count_predictions(*args)
    )
    for source, expected in (("pass", 3), ("train", 1)):
        passes.clear()
        flags = [*words(script), "--epoch", "3", "--lr", "1e-30", "--mapping-source", source]
        result = module.main([str(flag) for flag in flags])
        maps[source] = result["mapping"]
        assert result["mapping_source"] == source
        assert len(passes) == expected
    assert maps["pass"] == maps["train"]


def test_the_map_of_training_is_of_the_last_epoch_alone(words, monkeypatch):
    module, counted = load_script("experiments/cnn/ilm_vp"), []
    make = module.frequency_label_mapping
    monkeypatch.setattr(
        module, "frequency_label_mapping", lambda counts, *more: counted.append(counts.sum()) or make(counts, *more)
    )
    module.main([*words("experiments/cnn/ilm_vp"), *"--epoch 5 --mapping-source train --mapping-interval 2".split()])
    assert counted == [24, 24, 24]


@pytest.mark.parametrize("precision", ["bfloat16"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_bfloat16_on_request(script, precision, run_script, words):
    result = run_script(script, *words(script), "--epoch", 1, "--precision", precision)
    assert (result["precision"], result["status"]) == ("bfloat16", "finished")


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(run_script, monkeypatch):
    module = load_script("experiments/cnn/full_finetune")
    words = [str(word) for word in (*SMALL, "--epoch", 3)]
    end_epoch = RunFolder.end_epoch

    def poison(self, epoch, record):
        end_epoch(self, epoch, record)
        with torch.no_grad():
            self._parts["network_dict"].body.fc.bias[0] = float("nan")

    monkeypatch.setattr(RunFolder, "end_epoch", poison)
    with pytest.raises(RunError, match="the training loss is nan") as caught:
        module.main(words)
    assert caught.value.exit_code == 1
    run = folder("full_finetune", "tiny_small_seed7_epoch3")
    assert checkpoint(run / "ckpt.pth")["epoch"] == 0
    assert json.loads((run / "result.json").read_text())["status"] == "failed"


def test_a_model_that_the_last_step_broke_is_not_saved(run_script):
    with pytest.raises(RunError, match=r"loss is (nan|inf)"):
        run_script("experiments/cnn/linear_probing", *SMALL, "--epoch", 2, "--lr", 1e37)
    assert not list(cfg.results_path.rglob("ckpt.pth"))


MISTAKES = {
    "no such network": (("--network", "tini"), "Did you mean --network tiny?"),
    "no such data set": (("--dataset", "digit"), "Did you mean --dataset digits?"),
    "batch size of 0": (("--batch-size", "0"), "whole number from 1"),
    "negative epochs": (("--epoch", "-3"), "whole number from 1"),
    "learning rate of 0": (("--lr", "0"), "a number above 0"),
    "learning rate of nan": (("--lr", "nan"), "a number above 0"),
    "fraction above 1": (("--val-fraction", "1.5"), "at most 1"),
    "an enormous seed": (("--seed", "99999999999999999999"), "below 2^63"),
    "shots and a fraction": (("--shots", "2", "--train-fraction", "0.5"), "not allowed with"),
    "no such device": (("--device", "cuda:99"), "not available here"),
    "a device that is not built in": (("--device", "vulkan"), "this PyTorch, or this machine, has no vulkan); try cpu"),
    "a device without a package": (("--device", "hpu"), "this PyTorch, or this machine, has no hpu); try cpu"),
    "a device without data": (("--device", "meta"), "not available here"),
    "no device at all": (("--device", "gpu"), "not available here"),
    "float16 on the CPU": (("--precision", "float16"), "--precision bfloat16"),
    "no such precision": (("--precision", "float64"), "bfloat16 or float16 is needed"),
    "no such flag": (("--epochs", "3"), "Did you mean --epoch? Type: "),
    "an image larger than the input": (("--dataset", "pictures"), "128 pixels wide, the input 64"),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_message_and_leaves_nothing(words, message, run_script):
    with pytest.raises(UserError) as caught:
        run_script("experiments/cnn/ilm_vp", *SMALL, *words)
    assert caught.value.exit_code == 2
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3
    assert not list(cfg.results_path.rglob("args.json"))


@pytest.mark.parametrize("script", ["experiments/cnn/c_avp", "experiments/cnn/rlm_vp", "experiments/clip/zero_shot"])
def test_one_class_is_refused(script, small, words, run_script):
    """C-AVP's margins compare a class with the others. For any method the loss of one class is 0, and all is right."""
    shutil.rmtree(small)
    make_folders(cfg.data_path, "small", classes=("ant",), counts={"train": 6, "test": 5})
    with pytest.raises(UserError, match=r"--dataset small: .*\n.*one class, ant") as caught:
        run_script(script, *words(script))
    assert len(str(caught.value).splitlines()) == 3
    assert not list(cfg.results_path.rglob("args.json"))


def test_more_target_classes_than_source_classes_before_anything_is_computed(run_script, monkeypatch):
    row = TINY.__class__(TINY.build, input_size=64, class_names=("one", "two"))
    monkeypatch.setitem(NETWORKS, "tiny", row)
    monkeypatch.setattr(Network, "forward", None)
    with pytest.raises(UserError, match="The data set has 4 classes, the network 2"):
        run_script("experiments/cnn/ilm_vp", *SMALL)


def test_probabilities_make_the_map_of_ilm(monkeypatch):
    """Each image adds its soft-max over all source labels; the log still tells of arg-max predictions."""
    module, seen = load_script("experiments/cnn/ilm_vp"), []
    make = module.frequency_label_mapping
    monkeypatch.setattr(
        module, "frequency_label_mapping", lambda masses, *more: seen.append(masses) or make(masses, *more)
    )
    module.main([*SMALL, "--epoch", "1", "--mapping-counts", "probabilities"])
    assert seen[0].shape == (1000, 4)
    torch.testing.assert_close(seen[0].sum(0), torch.full((4,), 6.0, dtype=torch.float64))  # 6 images of each class
    assert seen[0].count_nonzero() > 4 * 6
    run = only_run("experiments/cnn/ilm_vp")
    assert run.name == "tiny_small_seed7_epoch1_mapping-countsprobabilities"
    (line,) = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    assert {"targets_without_predictions", "mapping_precision", "remapped"} <= line.keys()


def test_several_sources_are_averaged_and_restored(run_script):
    result = run_script("experiments/cnn/flm_vp", *SMALL, "--epoch", 2, "--sources", 3)
    saved = only_run("experiments/cnn/flm_vp") / "ckpt.pth"
    index = checkpoint(saved)["mapping_sequence"]
    assert index.shape == (4, 3)
    assert len(index.unique()) == 12
    assert run_script("tools/evaluate", "--checkpoint", saved)["acc"] == result["test_acc_last"]
    with pytest.raises(UserError, match=r"4 classes, the network 1000\. Each class needs 300\.(.|\n)*fewer --sources"):
        run_script("experiments/cnn/flm_vp", *SMALL, "--epoch", 2, "--sources", 300)


@pytest.mark.parametrize(("predicted", "told"), [(1, True), (2, False)])
def test_a_map_that_collapses_is_told_once_and_at_the_end(predicted, told, run_script, monkeypatch, capsys):
    """The network predicts one or two source labels alone, so that 3 or 2 of 4 targets have no prediction."""

    def collapsed(model, images):
        logits = torch.zeros(len(images), 1000)
        logits[torch.arange(len(images)), torch.arange(len(images)) % predicted] = 1
        return logits + 0 * model.prompt(images).sum()

    monkeypatch.setattr("models.prompted.Prompted.source_logits", collapsed)
    run_script("experiments/cnn/ilm_vp", *SMALL, "--epoch", 3)
    out = capsys.readouterr().out
    sentence = (
        "The map collapses in epoch 1: 3 of 4 targets have no prediction, so their source labels are arbitrary."
        " Try --mapping-counts probabilities, or a lower --lr."
    )
    assert out.count("The map collapses") == (2 if told else 0)
    assert (sentence in out) == told
    assert out.rfind("The map collapses") > out.rfind("Test accuracy") or not told
    run_script("experiments/cnn/ilm_vp", *SMALL, "--epoch", 1, "--mapping-counts", "probabilities")
    assert "The map collapses" not in capsys.readouterr().out
    run_script("experiments/cnn/ilm_vp", *SMALL, "--epoch", 1, "--unpredicted", "keep")
    assert ("so their source labels are former or arbitrary ones. Try" in capsys.readouterr().out) == told


@pytest.mark.parametrize(("unpredicted", "expected"), [("keep", [5, 301, 302, 303]), ("smallest", [5, 0, 1, 2])])
@pytest.mark.parametrize(
    "script", ["experiments/cnn/ilm_vp", "experiments/cnn/watermark_vp", "experiments/clip/ilm_tp_vp"]
)
def test_targets_without_predictions_keep_their_sources(script, unpredicted, expected, run_script, words, monkeypatch):
    """Each target has a source label of its own in epoch 1. In epoch 2, after a restart, only target 0 has one."""
    every, first = torch.zeros(304, 4, dtype=torch.int64), torch.zeros(304, 4, dtype=torch.int64)
    every[range(300, 304), range(4)] = first[5, 0] = 1
    counted = [every, KeyboardInterrupt(), first]

    def count(*_):
        if isinstance(counted[0], KeyboardInterrupt):
            raise counted.pop(0)
        return counted.pop(0)

    monkeypatch.setattr("tools.common.run.Run.count_predictions", count)
    flags = (*words(script), "--epoch", 2, "--unpredicted", unpredicted)
    with pytest.raises(UserError, match="To continue"):
        run_script(script, *flags)
    run_script(script, *flags)
    assert checkpoint(only_run(script) / "ckpt.pth")["mapping_sequence"].tolist() == expected
    assert only_run(script).name.endswith("_unpredictedkeep") == (unpredicted == "keep")


class NormalisedFeatures(type(TINY.build())):
    """As timm's levit, resnest, skresnet and repvit: a batch normalisation over features of one pixel."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Sequential(torch.nn.BatchNorm1d(self.fc.in_features), self.fc)
        self.fc.in_features = self.fc[1].in_features

    def reset_classifier(self, num_classes: int) -> None:
        self.fc[1] = torch.nn.Linear(self.fc.in_features, num_classes)


@pytest.fixture
def normalised(run_script, monkeypatch):
    monkeypatch.setitem(NETWORKS, "normalised", replace(TINY, build=NormalisedFeatures))
    words = ("--network", "normalised", "--dataset", "small", "--epoch", 1)
    return lambda *more: run_script("experiments/cnn/full_finetune", *words, *more)


def test_batch_normalisation_trains_although_one_image_is_left(normalised):
    assert normalised("--batch-size", 23)["train_acc_last"] >= 0  # of 24 images


def test_batch_normalisation_of_one_image_is_a_mistake(normalised):
    with pytest.raises(UserError, match=r"two images or more.\nA training batch has one image.\n.*--batch-size 2"):
        normalised("--batch-size", 1)
    assert not (cfg.results_path / "cnn/full_finetune").exists()
