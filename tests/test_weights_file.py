"""What tells weights apart: the hash of a network's weights, in checkpoints and when they are read again."""

import hashlib
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from test_experiments import only_run
from tiny import TINY, TinyNetwork
from torch import nn

from errors import UserError
from models.network_source import NETWORKS
from models.networks import CPU, Execution, load_network
from models.restore import restore
from models.weights_file import weights_hash


def test_the_hash_by_hand():
    body = nn.BatchNorm1d(2)
    with torch.no_grad():
        body.weight.copy_(torch.tensor([1.0, -2.0]))
    parts = [("float32", "(2,)", "0000803f000000c0"), ("float32", "(2,)", "00" * 8), ("float32", "(2,)", "00" * 8)]
    parts += [("float32", "(2,)", "0000803f" * 2), ("int64", "()", "00" * 8)]
    content = b"()" + b"".join(f"torch.{kind} {shape};".encode() + bytes.fromhex(data) for kind, shape, data in parts)
    assert weights_hash(body) == hashlib.sha256(content).hexdigest()[:16]


@pytest.mark.parametrize("change", [lambda w: w.add_(1e-6), lambda w: w.neg_(), lambda w: w.copy_(w.flip(0))])
def test_any_change_of_a_weight_changes_the_hash(change):
    body = nn.Linear(3, 3)
    before = weights_hash(body)
    change(body.weight.data)
    assert weights_hash(body) != before


def test_shape_and_type_count():
    values = torch.zeros(6)
    assert len({weights_hash(nn.ParameterList([w])) for w in (values, values.view(2, 3), values.view(3, 2))}) == 3
    assert weights_hash(nn.ParameterList([values])) != weights_hash(nn.ParameterList([torch.zeros(12).half()]))
    weights_hash(nn.ParameterList([torch.zeros(0), torch.zeros(2, 2).bfloat16(), torch.ones(2, 3).t()]))


def test_the_hash_is_that_of_the_loaded_weights_however_they_are_used():
    expected = weights_hash(TinyNetwork(), TINY.mean, TINY.std, TINY.input_size)
    assert len({expected, weights_hash(TinyNetwork()), weights_hash(TinyNetwork(), (0.5,) * 3, TINY.std, 64)}) == 3
    plain = Execution(torch.device("cpu"), plain=True)
    for network in (
        load_network("tiny"),
        load_network("tiny", plain),
        load_network("tiny", num_classes=0),
        load_network("tiny", num_classes=5, frozen=False),
    ):
        assert network.fingerprint == network.setup["weights"] == expected


@pytest.mark.parametrize("script", ["cnn/flm_vp", "cnn/linear_probing", "cnn/full_finetune", "clip/evp"])
def test_a_checkpoint_is_refused_over_other_weights(script, run_script, words, small, monkeypatch):
    script = f"experiments/{script}"
    run_script(script, *words(script), "--epoch", 1)
    checkpoint = torch.load(only_run(script) / "ckpt.pth", weights_only=True)
    setup = checkpoint["setup"]
    restore(checkpoint, setup, CPU)
    with pytest.raises(UserError, match=f"their hash is {setup['weights']}, not 0123"):
        restore(checkpoint, setup | {"weights": "0123"}, CPU)
    restore(checkpoint, {name: value for name, value in setup.items() if name != "weights"}, CPU)
    if "clip" not in script:
        other = TinyNetwork()
        other.fc.weight.data[0, 0] += 1
        monkeypatch.setitem(NETWORKS, "tiny", replace(TINY, build=lambda: other))
        with pytest.raises(UserError, match="Other weights, or the same"):
            restore(checkpoint, setup, CPU)


def test_clip_has_the_same_hash_from_two_formats(tiny_clip, tmp_path):
    from models.clip import build_classifier, build_encoder
    from models.clip_source import find_clip

    save_file(torch.load(tiny_clip["--pretrained"], weights_only=True), tmp_path / "same.safetensors")
    rows = [find_clip("", file, tiny_clip["--clip-config"]) for file in
            (tiny_clip["--pretrained"], str(tmp_path / "same.safetensors"))]  # fmt: skip
    loaded = [build_classifier(row, CPU, ["a", "b"], ["{}"]) for row in rows] + [build_encoder(rows[0], CPU, 0, True)]
    assert len({network.fingerprint for network in loaded}) == 1
    assert rows[0].md5 != rows[1].md5
