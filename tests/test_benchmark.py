"""The benchmark: what it measures and writes down, on a few tiny batches. How long things take is not tested."""

import json
from contextlib import nullcontext

import pytest
import torch
from conftest import load_script
from test_graphed import Eager
from tiny import TinyNetwork
from torch import nn

import models.graphed
from errors import UserError
from models.networks import Execution, load_network
from tools.benchmarking import measure, sides
from tools.common.machine import anonymous_memory

pytestmark = pytest.mark.numeric
CPU = torch.device("cpu")
FEW = "--network resnet18 --batch-size 2 --steps 1 --repeat 1 --train-images 5 --test-images 3".split()


@pytest.mark.slow
def test_rows(tmp_path, capsys):
    file = tmp_path / "benchmark.json"
    rows = load_script("tools/benchmark").main([*FEW, "--image-size", "40", "--json", str(file)])
    written = json.loads(file.read_text())
    assert written["rows"] == rows
    assert (written["device"], written["precision"], written["batch_size"]) == ("cpu", "float32", 2)
    assert written["flops"] > 0 and written["torch"] == torch.__version__
    assert [row["phase"] for row in rows] == ["training", "forward", "epoch"]
    for row in rows:
        assert (row["network"], row["image_size"], row["default"]) == ("resnet18", 40, "shared")
        assert all(row[path] > 0 for path in ("plain", "dense", "shared"))
        slower, faster = ("plain", "shared") if row["phase"] == "epoch" else ("shared", "plain")
        assert row["ratio"] == pytest.approx(row[slower] / row[faster])
    assert rows[0]["dense_fraction_of_peak"] > 0 and rows[2]["loading_fraction"] > 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 4 and all("times" in line for line in told[1:])


@pytest.fixture
def args(tmp_path):
    """The settings of a benchmark of two images, with photographs in `tmp_path`."""
    args = load_script("tools/benchmark").parse([*FEW, "--device", "cpu", "--workers", "0"])
    sides.write_photographs(tmp_path / "photographs", {"train": 6, "test": 4}, different=3)
    return args


def test_paths_do_the_same_work_in_their_own_way(tmp_path, args, float64):
    body = sides.random_body("resnet18")
    made = {path: sides.Side(path, body, "resnet18", 32, tmp_path, args) for path in ("plain", "dense", "shared")}
    assert len(list((tmp_path / ".cache").glob("*.pixels"))) == 2
    assert [side.model.shares_border for side in made.values()] == [False, False, True]
    assert all(group["fused"] for side in made.values() for group in side.optimizer.param_groups)
    counts = [side.forward(side.data.test) for side in made.values()]
    assert all(count.sum() == 4 and count.equal(counts[0]) for count in counts)
    # ResNet-18 takes 1.81 G multiplications forward, as many backward but for the images' gradient (conv1 has one too)
    assert measure.image_flops(made["plain"]) == pytest.approx(4 * 1.814e9, rel=0.01)


def test_the_default_path_is_that_of_the_scripts():
    for device in (CPU, torch.device("meta")):  # CUDA's: test_graphed.py
        network = load_network("tiny", Execution(device))
        asked = sides.PATHS[sides.default_path(device)]
        assert (bool(network.shares_border), network.cuda_graph) == (asked["share_border"], asked["cuda_graph"])
    assert sides.PATHS[sides.default_path(torch.device("cuda"))] == {"share_border": True, "cuda_graph": True}


def test_random_weights_give_values_that_float16_can_hold():
    """Each normalisation's outputs have variance 1 in evaluation mode; a deep network's grow no more than linearly."""
    body = sides.random_body("resnet18").eval()
    seen = []
    for layer in body.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.register_forward_hook(lambda _, given, result: seen.append(result.std().item()))
    with torch.no_grad():
        body(torch.randn(2, 3, 224, 224))
    assert len(seen) == 20 and max(seen) < 2 and min(seen) > 0.3


def test_what_is_measured_on_the_device_has_a_value_for_every_path(tmp_path, args):
    """On the CPU there are no kernels of CUDA; the host's time is that of a step."""
    benchmark = load_script("tools/benchmark")
    body = sides.random_body("resnet18")
    made = {path: sides.Side(path, body, "resnet18", 16, tmp_path, args) for path in ("dense", "shared")}
    row = benchmark.on_the_device(made, "forward", args)
    assert row["kernels"] == {"dense": 0, "shared": 0} and row["kernel_ms"] == {"dense": 0, "shared": 0}
    assert all(ms > 1 for ms in row["host_ms"].values())
    figures = {"network": "resnet18", "image_size": 16, "phase": "forward", "dense": 7.0, "shared": 8.0, "ratio": 2.0}
    told = benchmark.line(figures | row | {"peak_bytes": {"dense": 123, "shared": 45}}).splitlines()
    assert len(told) == 5 and told[1].endswith("kernels a step:  dense 0  shared 0") and told[4].endswith("shared 45")


def test_host_seconds_are_those_between_batches(monkeypatch):
    clock = iter((1.0, 1.5, 4.0, 4.25))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    seen = []
    assert measure.host_seconds(seen.extend, [1, 2, 3, 4], CPU) == 0.5
    assert seen == [1, 2, 3, 4]


def test_a_multiplication_is_measured_in_the_type_that_is_asked_for(monkeypatch):
    types = []

    def seconds(run, device):
        types.append(run.__closure__[0].cell_contents.dtype)
        return 2.0 if len(types) > 1 else 4.0

    monkeypatch.setattr(measure, "seconds_of", seconds)
    assert measure.multiplication_peak(CPU, torch.bfloat16, most=5) == 2 * 2048**3 / 2
    assert types == [torch.bfloat16] * 2  # these took 6 seconds


def test_memory(tmp_path):
    (row,) = load_script("tools/benchmark").main([*FEW, "--image-size", "16", "--memory"])
    assert row["phase"] == "memory"
    assert 0 < row["network_bytes"] <= 2 * anonymous_memory() and row["epoch_bytes"] > 0


def test_settings_depend_on_the_machine_and_on_quick(monkeypatch):
    parse = load_script("tools/benchmark").parse
    usual, quick = parse(["--device", "cpu"]), parse(["--device", "cpu", "--quick", "--repeat", "7"])
    assert (usual.batch_size, usual.repeat) == (64, 5)
    assert (quick.batch_size, quick.steps, quick.repeat) == (16, 1, 7)


MISTAKES = {
    "--network resnet81": "Did you mean --network resnet18?",
    "--network resnet18 --image-size 300": "300 pixels wide, the input 224",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes(words):
    with pytest.raises(UserError) as caught:
        load_script("tools/benchmark").main(words.split())
    assert MISTAKES[words] in str(caught.value)


class Small(TinyNetwork):
    """`tiny` behind a pooling from 224 to 64 pixels."""

    def forward(self, x):
        return super().forward(torch.nn.functional.adaptive_avg_pool2d(x, 64))


@pytest.mark.slow
def test_what_it_prints_of_a_gpu(monkeypatch, tmp_path, capsys):
    """The CPU stands in for one, with a recorder that does the work anew: the paths, the figures and the file."""
    benchmark, file = load_script("tools/benchmark"), tmp_path / "gpu.json"
    monkeypatch.setattr(benchmark, "on_gpu", lambda device: True)
    monkeypatch.setattr(benchmark, "CASES", {"cuda": (("resnet18", 32), ("resnet18", 128))})
    monkeypatch.setattr(models.graphed, "Recorder", Eager)
    monkeypatch.setitem(sides.ARCHITECTURES, "resnet18", Small)
    answers = {"get_device_name": "a GPU", "memory_allocated": 5, "device": nullcontext()}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, answer=answer: answer)
    compile = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compile(self, backend="eager", **how))
    rows = benchmark.main([*FEW, "--device", "cpu", "--compile", "--json", str(file)])
    written = json.loads(file.read_text())
    assert written["rows"] == rows and written["device"] == "a GPU"
    phases = ["training", "forward", "training", "forward", "epoch"]  # an epoch of one case alone
    assert [row["phase"] for row in rows] == phases
    paths = {"plain", "dense", "shared", "graphed", "graphed_shared", "compiled"}
    for row in rows[:4]:
        assert row["kernels"].keys() == row["kernel_ms"].keys() == row["host_ms"].keys() == paths
        assert all(row[path] > 0 for path in paths)
    assert rows[0]["peak_bytes"].keys() == paths and "peak_bytes" not in rows[1]
    assert "plain" not in rows[4] and rows[4]["graphed_shared"] > 0 and rows[4]["kernel_seconds"] == 0
    told = capsys.readouterr().out
    assert "a GPU," in told and told.count("host_ms a step:  plain ") == 4 and "0.00 s of kernels" in told
