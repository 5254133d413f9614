"""Networks with weights of one's own: a file, a folder, the hub; what they are called, and networks without classes."""

import json
import shutil
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import same
from safetensors.torch import save_file
from test_experiments import checkpoint, only_run
from timm.models import save_for_hf

from errors import UserError
from models.network_row import CLASS_NAMES
from models.network_source import find_network
from models.networks import CPU, Execution, load_network
from models.restore import restore
from models.timm_source import from_timm
from tools.common.network_names import network_name

ILM, PROBE, TUNE = (f"experiments/cnn/{name}" for name in ("ilm_vp", "linear_probing", "full_finetune"))
PLAIN = Execution(torch.device("cpu"), plain=True)


def tiny_timm(num_classes: int = 17, seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model("test_resnet", num_classes=num_classes).eval()


@pytest.fixture
def saved(tmp_path) -> Path:
    """A file with the state dict of a network of 17 classes."""
    path = tmp_path / "mine.pth"
    torch.save(tiny_timm().state_dict(), path)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """What timm itself saves of a network of 17 classes."""
    path = tmp_path / "exported"
    save_for_hf(tiny_timm(), path, safe_serialization=True)
    return path


def edit(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update({name: value for name, value in changes.items() if name != "pretrained_cfg"})
    config["pretrained_cfg"].update(changes.get("pretrained_cfg", {}))
    (folder / "config.json").write_text(json.dumps(config))


# What is read --------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "alone": lambda state: state,
    "in a dict": lambda state: {"epoch": 3, "model": state, "optimizer": {"state": {}}},
    "of data parallelism": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "of full fine-tuning": lambda state: {"network_dict": {f"body.{name}": tensor for name, tensor in state.items()}},
    "without counters": lambda state: {name: t for name, t in state.items() if "num_batches" not in name},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_file_is_the_network_it_was_saved_from(layout, tmp_path):
    body = tiny_timm()
    torch.save(layout(body.state_dict()), tmp_path / "x.pth")
    network = load_network(f"timm:test_resnet={tmp_path / 'x.pth'}", PLAIN)
    assert same(dict(network.body.state_dict()), dict(body.state_dict()))
    cfg = timm.models.get_pretrained_cfg("test_resnet")
    assert (network.input_size, network.mean.flatten().tolist()) == (cfg.input_size[-1], list(cfg.mean))
    assert network.class_names[:2] == ("source 0", "source 1") and len(network.class_names) == 17


def test_safetensors_and_torchs_format_are_the_same_weights(saved, tmp_path):
    save_file(tiny_timm().state_dict(), tmp_path / "x.safetensors")
    first, second = (load_network(f"timm:test_resnet={file}") for file in (saved, tmp_path / "x.safetensors"))
    assert first.fingerprint == second.fingerprint


def test_a_folder_is_the_network_that_timm_exported(folder):
    edit(folder, pretrained_cfg={"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "input_size": [3, 96, 96]})
    network = load_network(f"local-dir:{folder}", PLAIN)
    assert same(dict(network.body.state_dict()), dict(tiny_timm().state_dict()))
    assert network.input_size == 96 and network.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert network.class_names == tuple(f"source {number}" for number in range(17))


@pytest.mark.parametrize(
    ("names", "descriptions", "expected"),
    [
        ([f"n{i}" for i in range(17)], None, "n3"),
        ([f"n{i}" for i in range(17)], {"n3": "a  fish"}, "a fish"),
        ({"3": "only this"}, None, "only this"),
        ({"4": "another"}, None, "source 3"),
    ],
)
def test_the_class_names_of_a_folder(names, descriptions, expected, folder):
    edit(folder, label_names=names, label_descriptions=descriptions)
    row = find_network(f"local-dir:{folder}")
    assert row.class_names[3] == expected and len(row.class_names) == 17


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"label_names": ["a"]}, "17 printable names"),
        ({"label_names": ["\x1b[31m"] * 17}, "17 printable names"),
        ({"architecture": "resnet_mine"}, "timm has no architecture 'resnet_mine'"),
        ({"pretrained_cfg": {"input_size": [1, 160, 160]}}, "square RGB images are needed"),
        ({"pretrained_cfg": {"input_size": [3, 160, 80]}}, "square RGB images are needed"),
        ({"pretrained_cfg": {"std": [0, 1, 1]}}, "square RGB images are needed"),
        ({"num_classes": "many"}, "many"),
    ],
)
def test_a_config_that_cannot_be_used(change, found, folder):
    edit(folder, **change)
    with pytest.raises(UserError) as caught:
        load_network(f"local-dir:{folder}")
    assert found in str(caught.value) and "config.json" in str(caught.value)


def test_a_folder_that_lacks_a_file(folder):
    (folder / "config.json").rename(folder / "c.json")
    with pytest.raises(UserError, match=r"There is no config\.json in it"):
        load_network(f"local-dir:{folder}")
    (folder / "c.json").rename(folder / "config.json")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="It lacks the weights"):
        load_network(f"local-dir:{folder}")


def test_the_hubs_cache_and_no_network(folder, tmp_path, monkeypatch):
    """1000 classes are ImageNet's only if timm itself says so."""
    for repository in ("timm/mine", "me/mine"):
        snapshot = tmp_path / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / "abc"
        save_for_hf(tiny_timm(1000), folder, safe_serialization=True)
        edit(folder, pretrained_cfg={"tag": "r160_in1k"})
        shutil.copytree(folder, snapshot)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    assert find_network("hf-hub:timm/mine").class_names == CLASS_NAMES
    network = load_network("hf-hub:me/mine@main", PLAIN)
    assert network.class_names[7] == "source 7"
    assert same(dict(network.body.state_dict()), dict(tiny_timm(1000).state_dict()))
    with pytest.raises(UserError) as caught:
        load_network("hf-hub:me/other")
    message = str(caught.value)
    assert "no network" in message and "https://huggingface.co/me/other" in message and "local-dir:FOLDER" in message
    with pytest.raises(UserError, match="--network hf-hub:a b: config"):
        load_network("hf-hub:a b")


def refuse(*args, **kwargs):
    raise urllib.error.URLError("no network")


def test_where_timms_tags_disagree_the_tag_is_asked_for(saved):
    with pytest.raises(UserError, match="does not say how its images were prepared") as caught:
        find_network(f"timm:resnet18={saved}")
    assert f"timm:resnet18.a1_in1k={saved} or --network timm:resnet18.a3_in1k={saved}" in caught.value.next_step
    with pytest.raises(
        UserError, match="should hold the weights of timm's resnet18"
    ):  # the tag is enough; the rest is not
        load_network(f"timm:resnet18.a3_in1k={saved}")


def test_1000_classes_of_a_file_are_not_taken_for_imagenets(tmp_path):
    torch.save(tiny_timm(1000).state_dict(), tmp_path / "x.pth")
    assert find_network(f"timm:test_resnet={tmp_path / 'x.pth'}").class_names[0] == "source 0"


# What is refused -----------------------------------------------------------------------------------------------------


def test_other_shapes_and_names_are_told(saved, tmp_path):
    state = tiny_timm().state_dict()
    del state["bn1.weight"]
    state |= {"fc.weight": torch.zeros(17, 3), "neck.0.weight": torch.zeros(2)}
    torch.save(state, saved)
    with pytest.raises(UserError) as caught:
        load_network(f"timm:test_resnet={saved}")
    for part in (
        "bn1.weight is missing",
        "fc.weight is (17, 3), not (17, ",
        "neck.0.weight is unknown",
        str(saved),
    ):
        assert part in str(caught.value)
    torch.save(timm.create_model("test_vit").state_dict(), saved)
    with pytest.raises(UserError, match=r"conv1\S+ is missing, .* and \d+ more"):
        load_network(f"timm:test_resnet={saved}")


class Code:
    def __reduce__(self):
        return print, ("executed",)


CONTENTS = {
    "numpy": ({"model": tiny_timm().state_dict(), "acc": np.float64(1)}, "it holds more than tensors (numpy"),
    "code": ({"model": Code()}, "it holds more than tensors"),
    "a module": (torch.nn.Linear(1, 1), "it holds more than tensors"),
    "two": ({"ema": {"a": torch.zeros(1)}, "raw": {"a": torch.zeros(1)}}, "2 state dicts (ema, raw); save one alone"),
    "none": ({"acc": 1.0}, "no state dict"),
    "a list": ([torch.zeros(1)], "no state dict"),
}


@pytest.mark.parametrize(("content", "found"), CONTENTS.values(), ids=CONTENTS.keys())
def test_a_file_with_something_else(content, found, saved, capsys):
    torch.save(content, saved)
    with pytest.raises(UserError) as caught:
        load_network(f"timm:test_resnet={saved}")
    message = str(caught.value)
    assert found in message and "\x1b" not in message and len(message.splitlines()) == 3
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file(suffix, tmp_path):
    file = tmp_path / f"x{suffix}"
    for content in (b"", b"not weights at all"):
        file.write_bytes(content)
        with pytest.raises(UserError, match="a file of weights is needed"):
            load_network(f"timm:test_resnet={file}")
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "s.pth")
    with pytest.raises(UserError, match="a TorchScript archive, which may hold code"):
        load_network(f"timm:test_resnet={tmp_path / 's.pth'}")


@pytest.mark.parametrize("name", ["timm:test_resnet=", "timm:test_resnet=gone.pth", "local-dir:", "local-dir:gone"])
def test_a_path_that_is_not_there(name, run_script):
    with pytest.raises(UserError, match="there is no such file or folder"):
        run_script(ILM, "--network", name, "--dataset", "small")


# Runs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("script", [ILM, PROBE, TUNE])
def test_runs_and_checkpoints_know_the_file_by_its_hash(script, run_script, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = network_name(f"timm:test_resnet={saved}")
    assert short.startswith("timm:test_resnet=mine-") and str(tmp_path) not in short
    command = (script, "--network", "timm:test_resnet=mine.pth", "--dataset", "small", "--epoch", 1)
    result = run_script(*command)
    run = only_run(script)
    setup = checkpoint(run / "ckpt.pth")["setup"]
    assert result["network"] == setup["network"] == json.loads((run / "args.json").read_text())["network"] == short
    assert setup["source"] == f"timm:test_resnet={saved}"
    assert run_script(*command) == result
    again = run_script("tools/evaluate", "--checkpoint", run / "ckpt.pth")
    assert again["acc"] == pytest.approx(result["test_acc_last"])

    network_name.cache_clear()  # as in another process
    other = tmp_path / "other.pth"
    saved.rename(other)
    with pytest.raises(UserError, match=r"mine\.pth.*No such file") as caught:
        run_script("tools/evaluate", "--checkpoint", run / "ckpt.pth")
    assert "Give its new path" in str(caught.value)
    moved = ("tools/evaluate", "--checkpoint", run / "ckpt.pth", "--network", f"timm:test_resnet={other}")
    assert run_script(*moved)["acc"] == again["acc"]
    torch.save(tiny_timm(seed=1).state_dict(), other)
    with pytest.raises(UserError, match="Other weights, or the same with another normalisation"):
        run_script(*moved)
    torch.save(tiny_timm(seed=1).state_dict(), saved)
    network_name.cache_clear()
    run_script(*command)
    assert len(list(run.parent.iterdir())) == 2


@pytest.mark.usefixtures("small")
def test_missing_runs_are_typed_with_the_file(run_script, saved, capsys):
    run_script(ILM, "--network", f"timm:test_resnet={saved}", "--dataset", "small", "--epoch", 1)
    capsys.readouterr()
    run_script("tools/results_table", "--missing", "--seeds", 8)
    assert f"--network timm:test_resnet={saved} --dataset small" in capsys.readouterr().out


def test_a_folder_is_known_by_its_config_too(folder):
    before = network_name(f"local-dir:{folder}")
    network_name.cache_clear()
    edit(folder, pretrained_cfg={"mean": [0.0, 0.0, 0.0]})
    after = network_name(f"local-dir:{folder}")
    assert before != after and before.startswith("local-dir:exported-")


# Networks without a classifier ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("script", [PROBE, TUNE, "experiments/cnn/lor_vp"])
def test_a_backbone_gets_a_new_layer(script, run_script, saved):
    torch.save({"model": tiny_timm(0).state_dict()}, saved)
    network = ("--network", f"timm:test_resnet={saved}", "--dataset", "small", "--epoch", 1)
    result = run_script(script, *network)
    again = run_script("tools/evaluate", "--checkpoint", only_run(script) / "ckpt.pth")
    assert again["acc"] == pytest.approx(result["test_acc_last"])
    with pytest.raises(UserError, match="The network has no classifier") as caught:
        run_script(ILM, *network)
    assert "linear_probing.py or full_finetune.py" in str(caught.value)


def test_published_backbones_and_21k_classifiers_are_known():
    for name in ("vit_base_patch16_224.mae", "vit_small_patch16_224.dino"):
        assert find_network(f"timm:{name}").class_names == ()
        with pytest.raises(
            UserError, match=r"linear_probing\.py or full_finetune\.py"
        ):  # before anything is downloaded
            load_network(f"timm:{name}")
    names = find_network("timm:vit_tiny_patch16_224.augreg_in21k").class_names
    assert len(names) == 21843 and names[0] == "organism, being"


def test_weights_of_another_published_format_are_read_from_the_hubs_file(tmp_path, monkeypatch):
    """timm calls these weights `custom_load`, for the NumPy file that they came from."""
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert timm.models.get_pretrained_cfg(name).custom_load
    body = timm.create_model("vit_tiny_patch16_224")
    monkeypatch.setattr("models.timm_source.checkpoint_folder", lambda: tmp_path)
    save_file(body.state_dict(), tmp_path / f"{name}.safetensors")
    assert same(dict(from_timm(f"timm:{name}", name).state_dict()), dict(body.state_dict()))


def test_a_restored_backbone_is_checked(saved):
    torch.save(tiny_timm(0).state_dict(), saved)
    network = load_network(f"timm:test_resnet={saved}", num_classes=4, frozen=False)
    content = {"network_dict": network.state_dict()}
    setup = {**network.setup, "network": "x", "class_names": list("abcd")}
    x = torch.rand(2, 3, 160, 160)
    assert torch.equal(restore(content, setup, CPU)(x), network.eval()(x))
