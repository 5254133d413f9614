"""What a run sets on its device before it computes; calls that need a GPU are watched, not made."""

import pytest
import torch

from tools.common.machine import prepare_device


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)


@pytest.mark.parametrize(("name", "chosen"), [("cuda:1", [1]), ("cuda", []), ("cpu", [])])
def test_the_gpu_that_was_asked_for_is_the_current_one(name, chosen, monkeypatch):
    """Else a tensor on `cuda`, or what a library makes there, would lie on the first GPU."""
    seen = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: seen.append(device.index))
    prepare_device(torch.device(name))
    assert seen == chosen
