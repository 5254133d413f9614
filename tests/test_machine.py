"""What a run sets on its device before it computes; calls that need a GPU are watched, not made."""

import pytest
import torch

from tools.common.machine import prepare_device


@pytest.fixture(autouse=True)
def as_before():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    yield
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


@pytest.mark.parametrize(("name", "chosen"), [("cuda:1", [1]), ("cuda", []), ("cpu", [])])
def test_the_gpu_that_was_asked_for_is_the_current_one(name, chosen, monkeypatch):
    """Else a tensor on `cuda`, or what a library makes there, would lie on the first GPU."""
    seen = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: seen.append(device.index))
    prepare_device(torch.device(name))
    assert seen == chosen


@pytest.mark.parametrize(("plain", "allowed"), [(False, True), (True, False)])
def test_plain_float32_is_no_tf32(plain, allowed):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    prepare_device(torch.device("cuda"), plain)
    assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == allowed


def test_plain_reaches_the_device(small, run_script, words, monkeypatch):
    seen = []
    monkeypatch.setattr("tools.common.run.prepare_device", lambda device, plain: seen.append(plain))
    for flags in ((), ("--plain",)):
        run_script("experiments/cnn/rlm_vp", *words("experiments/cnn/rlm_vp"), "--epoch", 1, *flags)
    assert seen == [False, True]
