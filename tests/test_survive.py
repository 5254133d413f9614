"""Runs under hardship; what is done to them is in tests/survive.py, a script of its own."""

import sys
from pathlib import Path

import pytest
import survive

from errors import RunError
from tools.common.log import Log

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and asks the kernel")


@pytest.fixture(autouse=True)
def own_names(monkeypatch):
    """`survive` sets names of its own; they are taken back."""
    monkeypatch.setattr(survive.cfg, "data_path", None)
    monkeypatch.setattr(survive.catalog, "DATASETS", survive.catalog.DATASETS)


def test_killed_twenty_times(tmp_path):
    killed = survive.kill(tmp_path, times=20, seed=0)
    assert sum(killed.values()) == 20
    assert set(killed) >= set(survive.PHASES)


def test_a_full_disk(tmp_path):
    try:
        said = survive.space(tmp_path)
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


def test_two_hundred_epochs(tmp_path):
    after = survive.long(tmp_path, epochs=200)
    (memory_early, files_early), (memory_late, files_late) = after[5], after[200]
    assert memory_late <= 1.05 * memory_early
    assert files_late <= files_early
