"""Outputs that learn with the prompt, maps of names, and AutoVP's learned scale: from the script to evaluate.py."""

import json

import open_clip
import pytest
import torch
from conftest import load_script
from test_experiments import SMALL, checkpoint, only_run
from tiny import make_clip, network_of
from torch import nn
from torch.nn.functional import cosine_similarity

import cfg
from algorithms.label_mapping import semantic_label_mapping
from errors import UserError
from models.clip import name_similarities
from models.networks import CPU, load_network
from models.output_mapping import LinearLabels, SelectLabels, WeightLabels
from models.prompted import Prompted
from models.visual_prompt import NoVisualPrompt

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("small")]


class Flags:
    """The flags that name a CLIP."""

    def __init__(self, files: dict[str, str]):
        self.clip_model, self.pretrained, self.clip_config = "any", files["--pretrained"], files["--clip-config"]
        self.preprocess = None


def test_the_features_of_a_network_without_classifier_have_names():
    network = load_network("tiny", num_classes=0)
    assert network.class_names == tuple(f"feature {number}" for number in range(16 * 7 * 7))
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 16 * 7 * 7)
    assert len(load_network("tiny").class_names) == 1000


def test_a_layer_that_learns_may_have_more_outputs_than_inputs():
    network = network_of(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), 3, 2)
    assert Prompted(NoVisualPrompt(), network, LinearLabels(3, 7))(torch.rand(2, 3, 2, 2)).shape == (2, 7)
    for mapping in (SelectLabels(7), WeightLabels(3, 7)):
        with pytest.raises(UserError, match="The data set has 7 classes, the network 3"):
            Prompted(NoVisualPrompt(), network, mapping)


@pytest.mark.parametrize(
    ("output", "key"),
    [("lp", "mapping_dict"), ("full", "mapping_dict"), ("flm", "mapping_sequence"), ("ilm", "mapping_sequence")],
)
def test_lor_vps_outputs(output, key, run_script):
    flags = ("--rank", 2, "--output", output, "--epoch", 2, "--batch-size", 8)
    result = run_script("experiments/cnn/lor_vp", *SMALL, *flags)
    run = only_run("experiments/cnn/lor_vp")
    saved = checkpoint(run / "ckpt.pth")
    assert saved["visual_prompt_dict"]["left"].shape == (3, 64, 2)
    assert saved["visual_prompt_dict"]["left"].abs().sum() > 0
    inputs = {"lp": 16 * 7 * 7, "full": 1000}
    if key == "mapping_dict":
        assert saved[key]["layer.weight"].shape == (4, inputs[output])
    remapped = [json.loads(line).get("remapped") for line in (run / "log.jsonl").read_text().splitlines()]
    assert [value is None for value in remapped] == [key == "mapping_dict", output != "ilm"]
    assert run_script("tools/evaluate", "--checkpoint", run / "ckpt.pth")["acc"] == result["test_acc_last"]


def test_lor_vps_new_layer_alone_is_linear_probing(monkeypatch):
    """While the prompt is zero, the model is a new linear layer on the frozen network's features."""
    module, seen = load_script("experiments/cnn/lor_vp"), {}

    def fit(run, model, data, *rest, **more):
        seen.update(model=model, data=data)
        return {}

    monkeypatch.setattr("tools.common.run.Run.fit", fit)
    module.main([*SMALL, "--batch-size", "8"])
    model = seen["model"]
    images, _ = next(iter(seen["data"].test))
    features = load_network("tiny", num_classes=0)(images)
    expected = features @ model.mapping.layer.weight.T + model.mapping.layer.bias
    torch.testing.assert_close(model(images), expected)
    assert [p.requires_grad for p in model.parameters()].count(True) == 4  # left, right, weight, bias


def test_the_layer_has_a_learning_rate_of_its_own(run_script):
    """At a rate near zero the layer stays as it was drawn, and the prompt learns."""
    torch.manual_seed(7)
    flags = ("--epoch", 1, "--batch-size", 8, "--mapping-lr", 1e-30)
    run_script("experiments/cnn/fully_vp", *SMALL, *flags)
    saved = checkpoint(only_run("experiments/cnn/fully_vp") / "ckpt.pth")
    torch.manual_seed(7)
    drawn = LinearLabels(1000, 4)
    assert torch.equal(saved["mapping_dict"]["layer.weight"], drawn.layer.weight)
    assert saved["visual_prompt_dict"]["program"].abs().max() > 1e-4


def test_cosines_of_names(tiny_clip):
    sources, targets = ("ant", "Cardigan", "cardigan"), ("bee", "cow")
    similarities = name_similarities(Flags(tiny_clip), CPU, sources, targets)
    open_clip.add_model_config(tiny_clip["--clip-config"])
    clip = open_clip.create_model("tiny-clip", pretrained=tiny_clip["--pretrained"]).eval()
    tokenize = open_clip.get_tokenizer("tiny-clip")
    with torch.no_grad():
        for s, source in enumerate(sources):
            for t, target in enumerate(targets):
                one, other = (clip.encode_text(tokenize([name]))[0] for name in (source, target))
                assert similarities[s, t].item() == pytest.approx(cosine_similarity(one, other, dim=0).item(), abs=1e-5)
    assert torch.equal(similarities[1], similarities[2])


@pytest.mark.parametrize("script", ["semantic_vp", "auto_vp"])
def test_a_map_of_names_follows_the_names_alone(script, run_script, tiny_clip):
    flags = [*SMALL, "--epoch", 1, "--sources", 3, *sum(tiny_clip.items(), ())]
    flags += ["--mapping", "semantic", "--batch-size", 8] if script == "auto_vp" else []
    run_script(f"experiments/cnn/{script}", *flags)
    run = only_run(f"experiments/cnn/{script}")
    network = load_network("tiny")
    similarities = name_similarities(Flags(tiny_clip), CPU, network.class_names, ("ant", "bee", "cow", "doe"))
    expected = semantic_label_mapping(similarities, 3)
    assert torch.equal(checkpoint(run / "ckpt.pth")["mapping_sequence"], expected)
    assert "name-cliptiny-clip-" in run.name


def test_another_clip_is_another_run_and_other_weights_in_its_place_are_refused(run_script, tiny_clip, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    files = {name: make_clip(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 2))}

    def run(name: str) -> dict:
        return run_script("experiments/cnn/semantic_vp", *SMALL, "--epoch", 1, *sum(files[name].items(), ()))

    run("a")
    run("b")
    folders = sorted((cfg.results_path / "cnn/semantic_vp").iterdir())
    assert len(folders) == 2
    arguments = json.loads((folders[0] / "args.json").read_text())
    arguments["name_clip_weights"] = "another"
    (folders[0] / "args.json").write_text(json.dumps(arguments))
    (folders[0] / "result.json").unlink()  # as if the run had stopped before its end
    with pytest.raises(UserError, match="name_clip_weights another, not"):
        run("a" if arguments["pretrained"] == files["a"]["--pretrained"] else "b")


def test_the_scale_learns_stays_in_its_range_and_is_restored(run_script):
    flags = ("--epoch", 3, "--batch-size", 8, "--lr", 3.0, "--trainable-scale", "--scale", 1.0, "--mapping", "ilm")
    result = run_script("experiments/cnn/auto_vp", *SMALL, *flags)
    saved = only_run("experiments/cnn/auto_vp") / "ckpt.pth"
    scale = checkpoint(saved)["visual_prompt_dict"]["scale"]
    assert scale != 1.0 and 0.1 <= scale.item() <= 5.0 + 1e-6
    assert run_script("tools/evaluate", "--checkpoint", saved)["acc"] == result["test_acc_last"]


@pytest.mark.parametrize("scale", ["0.05", "6", "x"])
def test_a_scale_out_of_range(scale, run_script):
    with pytest.raises(UserError, match=r"a number (from 0\.1 to 5|above 0) is needed"):
        run_script("experiments/cnn/auto_vp", *SMALL, "--scale", scale)


def test_a_patch_that_does_not_divide_the_input_is_one_message(run_script):
    with pytest.raises(UserError, match="--mask-layers 6"):
        run_script("experiments/cnn/smm", *SMALL, "--patch-size", 32)
    assert not list(cfg.results_path.rglob("args.json"))
