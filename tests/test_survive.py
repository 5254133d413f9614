"""Runs that are killed, or whose disk is full. tests/survive.py, a script of its own, does this to them."""

import subprocess
import sys
from pathlib import Path

import pytest
import survive
import torch

from errors import RunError, UserError
from tools.common.log import Log

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and asks the kernel")
FEW = (0, 2**16, 2**21)  # bytes left on the disk


@pytest.fixture(autouse=True)
def own_names(monkeypatch):
    """`survive` adds names to the tables and sets the threads; this undoes both."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(survive.cfg, "data_path", survive.cfg.data_path)
    monkeypatch.setattr(survive.catalog, "DATASETS", survive.catalog.DATASETS)
    yield
    torch.set_num_threads(threads)


def test_killed_once_in_each_phase(tmp_path):
    assert sum(survive.kill(tmp_path, times=len(survive.PHASES), seed=0, epochs=20).values()) == len(survive.PHASES)


@pytest.mark.slow
def test_killed_twenty_times(tmp_path, figures):
    killed = survive.kill(tmp_path, times=20, seed=0)
    assert sum(killed.values()) == 20
    assert set(killed) >= set(survive.PHASES)


@pytest.mark.parametrize("sizes", [FEW, pytest.param(survive.FREE, marks=pytest.mark.slow)], ids=["a few", "all"])
def test_a_full_disk(tmp_path, sizes, request):
    if sizes == survive.FREE:
        request.getfixturevalue("figures")
    try:
        said = survive.space(tmp_path, sizes=sizes)
    except PermissionError as error:
        pytest.skip(f"no small disk can be mounted: {error}")
    assert len([words for words in said.values() if words == "enough"]) >= 1
    assert any("ckpt.pth" in words for words in said.values())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_log():
    log = Log(Path("/dev/full"))
    with pytest.raises(RunError, match=r"/dev/full has to be written(.|\n)*No space left"):
        log.append({"epoch": 1})
    assert log.records == []


def test_a_read_only_results_folder(small, run_script, tmp_path, monkeypatch):
    """New runs are refused with a message on what to do. Finished runs can be read."""
    words = ("experiments/cnn/rlm_vp", *survive.FLAGS, "--epoch", 1)
    try:
        with survive.small_disk(tmp_path / "disk", 2**22) as disk:
            monkeypatch.setattr(survive.cfg, "results_path", disk)
            run_script(*words)
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            for more in ((), ("--fresh",), ("--seed", 8)):
                with pytest.raises(UserError, match=r"Read-only file system(.|\n)*VP_RESULTS_PATH"):
                    run_script(*words, *more)
            assert "| RLM-VP" in run_script("tools/results_table")
            with pytest.raises(UserError, match="Read-only file system"):
                run_script("tools/report")
            assert run_script("tools/report", "--output", tmp_path / "report.html").is_file()
    except PermissionError as error:
        pytest.skip(f"no small disk can be mounted: {error}")


@pytest.mark.slow
def test_two_hundred_epochs(tmp_path, figures):
    after = survive.long(tmp_path, epochs=200)
    (memory_early, files_early), (memory_late, files_late) = after[5], after[200]
    assert memory_late <= 1.05 * memory_early
    assert files_late <= files_early
