"""What `--precision auto` means: for each device, method and checkpoint."""

import argparse

import pytest
import torch
from conftest import load_script
from tiny import ROOT

from errors import UserError
from tools.common import args, precision
from tools.common.precision import checkpoint_precision, resolve_precision

SCRIPTS = sorted(f"experiments/{path.parent.name}/{path.stem}" for path in (ROOT / "experiments").glob("*/*.py"))
FLOAT32 = {"experiments/cnn/evp", "experiments/cnn/linear_probing", "experiments/cnn/full_finetune"}


@pytest.mark.parametrize(
    ("device", "units", "method", "expected"),
    [
        ("cpu", True, True, "bfloat16"),
        ("cpu", True, False, "float32"),
        ("cpu", False, True, "float32"),
        ("cuda", True, True, "float16"),
        ("cuda", False, False, "float16"),
        ("mps", True, True, "float32"),
    ],
)
def test_auto(device, units, method, expected, monkeypatch):
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: units)
    assert resolve_precision("auto", torch.device(device), method) == expected
    assert resolve_precision("float32", torch.device(device), method) == "float32"
    assert resolve_precision("bfloat16", torch.device(device), method) == "bfloat16"


def test_float16_is_for_cuda():
    with pytest.raises(UserError, match="--precision bfloat16 or --precision float32"):
        resolve_precision("float16", torch.device("cpu"))


@pytest.mark.parametrize("switch", [True, False])
@pytest.mark.parametrize("script", SCRIPTS)
def test_methods_that_stay_in_float32(script, switch, monkeypatch):
    monkeypatch.setitem(args.experiment_parser.__kwdefaults__, "auto_bfloat16", switch)
    own = script not in FLOAT32 and "/clip/" not in script
    assert load_script(script).parser.auto_bfloat16 == (own and switch)


@pytest.mark.parametrize("then", ["bfloat16", "float32", None])
def test_a_checkpoint_is_computed_as_its_run_was(then, monkeypatch):
    flags = argparse.Namespace(precision="auto", device=torch.device("cpu"))
    assert checkpoint_precision(flags, {"precision": then} if then else {}) == "float32"
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: True)
    assert checkpoint_precision(flags, {"precision": then} if then else {}) == (then or "float32")
