"""A method that someone adds: README's script, word for word, and parts of one's own, in all commands."""

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import load_script, same
from test_experiments import SMALL, checkpoint
from tiny import ROOT

import cfg
import models.visual_prompt
from errors import UserError
from models.part import Part
from tools.common.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("small")
(SCRIPT,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
SELECTED = """    mapping = SelectLabels(dataset.num_classes, num_sources=3)
"""
REMAP = """        mapping.set(counts.topk(3, dim=0).indices.T)
"""
WEIGHTED = """    from models.output_mapping import WeightLabels

    mapping = WeightLabels(len(network.class_names), dataset.num_classes)
"""
LINEAR = """    from models.output_mapping import LinearLabels

    mapping = LinearLabels(len(network.class_names), dataset.num_classes)
"""
VARIANTS = {
    "README": SCRIPT,
    "weights": SCRIPT.replace(SELECTED, WEIGHTED).replace(
        REMAP, "        mapping.set(counts / counts.sum(0, keepdim=True))\n"
    ),
    "linear": SCRIPT.replace(SELECTED, LINEAR)
    .replace(REMAP, "        pass\n")
    .replace("prompt.parameters()", "[*prompt.parameters(), *mapping.parameters()]"),
    "own prompt": SCRIPT.replace("ExpansiveVisualPrompt", "Wash").replace("Wash(dataset.image_size, ", "Wash("),
}


class Wash(Part):
    """One learned colour over the whole enlarged image: a prompt that no file of the repository knows."""

    def __init__(self, canvas_size: int):
        super().__init__()
        self.canvas_size = canvas_size
        self.colour = torch.nn.Parameter(torch.zeros(3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(x, self.canvas_size) + self.colour


@pytest.fixture
def write_method(tmp_path):
    """write_method(text) -> the module of experiments/cnn/top3_vp.py in a checkout that has this file, too."""

    def write(text: str):
        house = tmp_path / "checkout"
        (house / "experiments" / "cnn").mkdir(parents=True)
        for name in ("algorithms", "data", "models", "tools", "cfg.py", "errors.py"):
            (house / name).symlink_to(ROOT / name)
        (house / "experiments/cnn/top3_vp.py").write_text(text, encoding="utf-8")
        return load_script("experiments/cnn/top3_vp", house)

    return write


def test_readmes_script_is_short():
    assert len(SCRIPT.splitlines()) <= 50
    assert all(text != SCRIPT for name, text in VARIANTS.items() if name != "README")


@pytest.mark.parametrize("name", VARIANTS)
def test_it_trains_resumes_and_is_known_to_every_command(name, write_method, run_script, small, monkeypatch, capsys):
    if name == "own prompt":  # as if it stood in models/visual_prompt.py
        monkeypatch.setattr(Wash, "__module__", "models.visual_prompt")
        monkeypatch.setattr(models.visual_prompt, "Wash", Wash, raising=False)
    module = write_method(VARIANTS[name])
    flags = [*SMALL, "--epoch", "3", "--lr", "0.05"]
    whole = module.main(flags)
    run = cfg.results_path / "cnn/top3_vp/tiny_small_seed7_epoch3_lr0.05"
    assert {path.name for path in run.glob("*.png")} == {"curves.png", "mapping.png", "prompt.png"}
    assert list(whole["mapping"]) == ["ant", "bee", "cow", "doe"]
    saved = checkpoint(run / "ckpt.pth")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    if name == "linear":
        assert "mapping_dict" in saved and "remapped" not in lines[0]
    else:
        assert lines[0]["remapped"] == 1.0 and 0 <= lines[2]["mapping_precision"] <= 1

    end_epoch = RunFolder.end_epoch
    with monkeypatch.context() as patch, pytest.raises(UserError, match="To continue"):
        patch.setattr(RunFolder, "end_epoch", lambda *a: end_epoch(*a) or (_ for _ in ()).throw(KeyboardInterrupt))
        module.main([*flags, "--fresh"])
    again = module.main(flags)
    times = ("seconds", "images_per_second")
    assert {k: v for k, v in again.items() if k not in times} == {k: v for k, v in whole.items() if k not in times}
    assert same(checkpoint(run / "ckpt.pth"), saved)

    found = run_script("tools/evaluate", "--checkpoint", run / "ckpt.pth")
    assert found["acc"] == pytest.approx(whole["test_acc_last"], abs=1e-9)
    assert found["loss"] == pytest.approx(lines[-1]["test_loss"], rel=1e-4)  # float32, other batches
    images = sorted((small / "test").rglob("*.png"))
    predicted = run_script("tools/predict", "--checkpoint", run / "ckpt.pth", *images)
    right = sum(predicted[str(file)][0][0] == file.parent.name for file in images)
    assert right / len(images) == pytest.approx(whole["test_acc_last"])
    assert Path(run_script("tools/picture", "--checkpoint", run / "ckpt.pth", "--output", run / "x.png")).is_file()
    capsys.readouterr()
    assert "top3_vp" in run_script("tools/results_table")
    report = run_script("tools/report").read_text(encoding="utf-8")
    assert "top3_vp" in report


def test_a_class_outside_of_models_trains_and_says_where_it_belongs(write_method, run_script, monkeypatch, capsys):
    monkeypatch.setattr(models.visual_prompt, "Wash", Wash, raising=False)
    write_method(VARIANTS["own prompt"]).main([*SMALL, "--epoch", "1"])
    assert "Wash does not lie in models/: evaluate.py" in capsys.readouterr().out
    (run,) = (cfg.results_path / "cnn/top3_vp").iterdir()
    with pytest.raises(UserError, match=r"class test_own_method\.Wash of a prompt(.|\n)*It does not lie in models/"):
        run_script("tools/evaluate", "--checkpoint", run / "best.pth")


def test_a_mapping_that_was_never_set_is_told(write_method):
    with pytest.raises(UserError, match="The mapping is not set"):
        write_method(SCRIPT.replace(REMAP, "        pass\n")).main([*SMALL, "--epoch", "1"])
