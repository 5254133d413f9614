"""What a run sets on its device before it computes; calls that need a GPU are watched, not made."""

import pytest
import torch

from tools.common import machine
from tools.common.machine import multiplies_bfloat16, prepare_device


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


FEATURES = {
    "AMX": ("avx512_bf16 amx_bf16 amx_tile amx_int8", True),
    "AMX without its tiles": ("avx512_bf16 amx_bf16", False),
    "AVX-512 alone": ("avx2 avx512_f avx512_bf16", False),
    "Arm with i8mm": ("neon bf16 i8mm", True),
    "Arm with SVE": ("neon bf16 sve", True),
    "Arm without either": ("neon bf16", False),
    "older Arm": ("neon i8mm sve", False),
}


@pytest.fixture
def fake_cpu(monkeypatch):
    """fake_cpu("bf16 i8mm") -> whether such a CPU has matrix units, by torch's own answer."""

    def ask(features: str, **other) -> bool:
        answer = dict.fromkeys(features.split(), True) | {"amx_fp16": False, "l2_cache_size": 1, "architecture": "x"}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: answer, raising=False)
        monkeypatch.setattr(torch.cpu, "_init_amx", lambda: other.get("permitted", True), raising=False)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: other.get("onednn", True))
        return multiplies_bfloat16.__wrapped__()

    return ask


@pytest.mark.parametrize(("features", "expected"), FEATURES.values(), ids=FEATURES)
def test_matrix_units_are_known_by_what_the_cpu_can_do(features, expected, fake_cpu):
    assert fake_cpu(features) == expected
    assert not fake_cpu(features, onednn=False)


def test_the_kernel_has_to_permit_amx(fake_cpu):
    assert not fake_cpu("amx_bf16 amx_tile", permitted=False)


@pytest.mark.parametrize("field", ["flags\t\t", "Features\t"])
@pytest.mark.parametrize(("features", "expected"), FEATURES.values(), ids=FEATURES)
def test_an_older_torch_reads_the_kernels_flags(field, features, expected, fake_cpu, monkeypatch, tmp_path):
    fake_cpu("")
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "CPU_INFO", file)
    assert multiplies_bfloat16.__wrapped__() is False  # no such file: not Linux
    lines = ["processor\t: 0", "model name\t: amx_bf16 amx_tile", f"{field}: fpu {features}", "bogomips\t: 1"]
    file.write_text("\n".join(lines))
    assert multiplies_bfloat16.__wrapped__() == expected
