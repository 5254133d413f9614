"""The memory of a CUDA GPU: steps take little more than the backward pass needs, and no more later. Not yet run on one.

    python -m pytest -m cuda -n 0

The same code runs on the CPU, on which the process's memory is watched.
"""

import pytest
import torch
import torch.nn.functional as F
from conftest import load_script
from test_cuda import on_both, on_cuda
from test_graphed import Eager
from tiny import TinyNetwork, network_of
from torch import Tensor, nn

import models.graphed
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.visual_prompt import NoVisualPrompt
from tools.benchmarking import measure, sides
from tools.common.machine import prepare_device

GB = 10**9


def saved_bytes(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Bytes of all activations that a forward pass keeps for its backward pass; no parameter or buffer counts."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = F.cross_entropy(model(images), labels)  # alive, so that no storage is used twice
    total = sum(kept.values())
    loss.backward()
    return total


class Learned(NoVisualPrompt):
    """The image, times a scalar that learns."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def test_saved_bytes_counted_by_hand():
    """Of 5 images of 3 x 4 x 4 float32 pixels: the images for the scale, the ReLU's outputs; 2 log-probabilities each.

    A few numbers more: the positions of the selected labels, the labels, the weight of the loss.
    """
    network = network_of(nn.Sequential(nn.ReLU(), nn.Flatten()), 48, 4)
    model = Prompted(Learned(), network, SelectLabels(2))
    model.mapping.set(torch.tensor([0, 1]))
    expected = 5 * 48 * 4 + 5 * 48 * 4 + 5 * 2 * 4
    assert 0 <= saved_bytes(model, torch.rand(5, 3, 4, 4), torch.tensor([0, 1, 0, 1, 0])) - expected <= 128


@pytest.fixture
def settings(tmp_path):
    """settings(device, words) -> the benchmark's flags, and photographs in `tmp_path`."""

    def make(device: str, *words: str):
        args = load_script("tools/benchmark").parse(["--device", device, "--workers", "0", "--steps", "2", *words])
        prepare_device(args.device)
        sides.write_photographs(tmp_path / "photographs", {"train": 4 * args.batch_size, "test": args.batch_size}, 16)
        return args

    return make


def step_memory(side: sides.Side, device: torch.device) -> int:
    """Bytes that training steps take above weights and images."""
    before = torch.cuda.memory_allocated(device)
    return measure.peak_memory(side.training, device) - before


@on_cuda
@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "resnet50"])
def test_steps_take_little_more_than_the_backward_pass_needs(name, device, settings, tmp_path):
    args = settings(device, "--batch-size", "128", "--precision", "float16")
    body = sides.random_body(name)
    made = [sides.Side(path, body, name, 128, tmp_path, args) for path in ("dense", "shared")]
    saved = saved_bytes(made[0].model, *made[0].batches[0])
    dense, shared = (step_memory(side, args.device) for side in made)
    print(f"{name}: dense {dense / GB:.2f} GB, shared {shared / GB:.2f} GB, saved for backward {saved / GB:.2f} GB")
    assert dense <= 1.6 * saved + 2 * GB
    assert shared <= dense


@on_both
@pytest.mark.parametrize("path", ["dense", "shared", "graphed"])
def test_memory_does_not_grow_from_epoch_to_epoch(path, device, tmp_path, monkeypatch, settings):
    """On the CPU other things in the process count, too, and the bound is wider."""
    args = settings(device, "--batch-size", "64" if device == "cuda" else "8")
    if device == "cpu":
        monkeypatch.setattr(models.graphed, "Recorder", Eager)
        monkeypatch.setitem(sides.ARCHITECTURES, "resnet18", Small)
    side = sides.Side(path, sides.random_body("resnet18"), "resnet18", 32, tmp_path, args)
    peaks = [measure.peak_memory(side.epoch, args.device) for _ in range(4)]
    assert peaks[3] <= peaks[1] * (1.01 if device == "cuda" else 1.1)


class Small(TinyNetwork):
    """`tiny` behind a pooling from 224 to 64 pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.adaptive_avg_pool2d(x, 64))
