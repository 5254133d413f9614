"""File systems without locks: runs and caches go on. A lock that is taken is told apart from them."""

import errno
from concurrent.futures import ThreadPoolExecutor

import filelock
import numpy as np
import pytest
from make_data import make_abide, make_coop
from test_experiments import SMALL

from data.cache import cached_pixels
from data.catalog import find_dataset
from data.transforms import decode
from errors import UserError
from locks import locked
from tools.common.files import own_folder

fcntl = pytest.importorskip("fcntl", reason="Windows has other locks")
SCRIPT = "experiments/cnn/rlm_vp"


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], ids=lambda number: errno.errorcode[number])
def no_locks(request, monkeypatch):
    """As Lustre without `flock` and some NFS."""

    def flock(*_):
        raise OSError(request.param, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_none_and_taken_and_free(tmp_path, no_locks, monkeypatch):
    with locked(tmp_path / "a", seconds=0) as lock, locked(tmp_path / "a", seconds=0) as again:
        assert lock is None and again is None
    monkeypatch.undo()
    with locked(tmp_path / "a", seconds=0) as lock:
        assert lock.is_locked
        with pytest.raises(filelock.Timeout):
            locked(tmp_path / "a", seconds=0)
    with locked(tmp_path / "a", seconds=0) as lock:
        assert lock.is_locked


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES], ids=lambda number: errno.errorcode[number])
def test_taken_stays_taken(number, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(number, "taken")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match="Another process is working in it"), own_folder(tmp_path / "run"):
        pass


def test_another_error_is_told(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match="the disk is broken"), own_folder(tmp_path / "run"):
        pass


def test_a_run_goes_on_without_locks(no_locks, small, run_script, capsys):
    assert run_script(SCRIPT, *SMALL, "--epoch", 1)["status"] == "finished"
    out = capsys.readouterr().out
    assert out.count("this file system has no locks") == 1 and "nother process" not in out


def test_a_cache_is_made_without_locks(no_locks, data_path, cache, capsys):
    """By several at once: each of them writes a file of its own."""
    make_coop(data_path, "dtd")
    split = find_dataset("dtd").read().train
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cached_pixels(split, [], cache, "x"), range(4)))
    for pixels in found:
        for position in range(len(split)):
            np.testing.assert_array_equal(pixels[position], decode([], split.open(position)))
    assert [path.suffix for path in cache.iterdir()] == [".pixels"]
    assert "another process" not in capsys.readouterr().out


def test_abide_is_opened_without_locks(data_path):
    """HDF5 locks what it opens, and would fail here as it does where there are no locks."""
    make_abide(data_path)
    with (data_path / "abide" / "abide.hdf5").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert find_dataset("abide").read().num_classes == 2
