"""How much memory activations may take."""

from pathlib import Path

import pytest
import torch

from errors import UserError
from tools.common import memory
from tools.common.args import experiment_parser
from tools.common.memory import budget, free_on_host, pieces_for

CPU = torch.device("cpu")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


INFO = {"proc/meminfo": "MemTotal:  9000 kB\nMemFree: 10 kB\nMemAvailable:   4000 kB\n"}
V2 = INFO | {"proc/self/cgroup": "0::/job/step\n"}
V1 = INFO | {"proc/self/cgroup": "7:cpu:/x\n4:memory:/docker/abc\n"}


def group(folder: str, most: object, used: int, dropped: int) -> dict[str, str]:
    names = ("memory.max", "memory.current", "inactive_file")
    if "/memory" in folder:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    stat = f"anon 5\n{names[2]} {dropped}\n"
    return {f"{folder}/{names[0]}": f"{most}\n", f"{folder}/{names[1]}": f"{used}\n", f"{folder}/memory.stat": stat}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        (INFO, 4000 * 1024),
        (V2 | group("sys/fs/cgroup/job", 900_000, 300_000, 50_000), 650_000),  # SLURM limits the job, not the step
        (V2 | group("sys/fs/cgroup/job/step", "max", 300_000, 0), 4000 * 1024),
        (V2 | group("sys/fs/cgroup/job", 900_000, 0, 0) | group("sys/fs/cgroup/job/step", 500, 100, 0), 400),
        (V2 | group("sys/fs/cgroup/job", 900_000, 950_000, 0), 0),
        (V2 | group("sys/fs/cgroup", 800_000, 300_000, 0), 500_000),  # in a container, whose group is the root
        (V1 | group("sys/fs/cgroup/memory", 700_000, 300_000, 100_000), 500_000),
        (V1 | group("sys/fs/cgroup/memory", 9223372036854771712, 300_000, 0), 4000 * 1024),
    ],
)
def test_what_is_free_on_the_host(files, free, tmp_path):
    assert free_on_host(write(tmp_path, files)) == free


def test_without_a_linux_kernel_it_is_half_of_the_memory_or_unknown(tmp_path, monkeypatch):
    names = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(memory.os, "sysconf", names.get, raising=False)
    assert free_on_host(tmp_path) == 4096 * 1000 // 2
    monkeypatch.delattr(memory.os, "sysconf")
    assert free_on_host(tmp_path) is None
    monkeypatch.setattr(memory, "free_on_host", lambda: None)
    assert budget(None, CPU) == float("inf")


def test_the_budget(monkeypatch):
    monkeypatch.setattr(memory, "free_on_host", lambda: 8_000)
    monkeypatch.setattr(memory, "used_memory", lambda: 300_000_000)
    assert budget(None, CPU) == 4_000
    assert budget(4.0, CPU) == 3_700_000_000
    assert budget(0.1, CPU) == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # four processes divide the host's memory
    assert budget(None, CPU) == 1_000
    cuda = torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1_000)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3_000)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000, 99_000))
    assert budget(None, cuda) == 6_000  # each process has its own GPU
    assert budget(1e-6, cuda) == 0
    assert budget(1.0, cuda) == 999_999_000


@pytest.mark.parametrize(
    ("capability", "plain", "training", "forward"),
    [("AVX512", False, 64, 64), ("AVX2", False, 32, 8), ("AVX2", True, 64, 64), ("DEFAULT", False, 64, 64)],
)
def test_small_caches_get_small_pieces(capability, plain, training, forward, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(memory, "free_on_host", lambda: 10**12)
    pieces, model, x = pieces_for(None, CPU, plain), torch.nn.Linear(5, 3), torch.rand(64, 5)
    assert pieces.compute(model, lambda some, _: len(some), x, torch.arange(64))[0] == training
    with torch.no_grad():
        assert pieces.compute(model, lambda some, _: len(some), x, torch.arange(64))[0] == forward


@pytest.mark.parametrize("text", ["0", "-1", "much", "nan", "inf", ""])
def test_what_is_no_memory(text):
    parser = experiment_parser(__file__, "", lr=1.0)
    with pytest.raises(UserError, match="--memory"):
        parser.parse_args(["--network", "tiny", "--dataset", "small", "--memory", text])


def test_the_flag():
    parser = experiment_parser(__file__, "", lr=1.0)
    for words, expected in (((), None), (("--memory", "auto"), None), (("--memory", "1.5"), 1.5)):
        assert parser.parse_args(["--network", "tiny", "--dataset", "small", *words]).memory == expected
