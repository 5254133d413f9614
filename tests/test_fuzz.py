"""Damaged files, a thousand mutations of those that matter most: an error or data, and nothing else; see fuzz.py."""

import os
import signal
import time
from random import Random

import fuzz
import pytest
from fuzz_kinds import HERE, KINDS, Kind, damaged

from errors import UserError


@pytest.fixture(autouse=True)
def own_path(monkeypatch):
    """The environment as it was, after the search path has been changed in it."""
    monkeypatch.setenv("PATH", os.environ["PATH"])


@pytest.mark.parametrize("part", [20, pytest.param(1, marks=pytest.mark.slow)], ids=["a few", "all"])
@pytest.mark.parametrize("name", KINDS)
def test_damaged_files(name, part):
    mutations = KINDS[name].mutations // part
    report = fuzz.fuzz(name, range(mutations))
    assert not report.failures, "\n".join(report.failures[:20])
    assert sum(report.outcomes.values()) == mutations


def test_mutations_are_seeded():
    content = bytes(range(256)) * 20
    assert damaged(content, Random("a")) == damaged(content, Random("a")) != damaged(content, Random("b"))
    assert all(damaged(content, Random(seed), range(9)) != content for seed in range(200))


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def leave_the_interpreter():
    os._exit(0)


def hang():
    time.sleep(60)


def take_memory():
    bytearray(2 * fuzz.MEMORY)


def hide_that_memory_is_short():
    raise UserError("name is read.", "MemoryError", "Mend it.")


def run_code():
    HERE.proof.touch()


def raise_something():
    raise IndexError("out of range")


def say_nothing_useful():
    raise UserError("It is wrong.", "Something.", "Try again.")


def say_too_much():
    raise UserError("name\n" * 100, "", "")


def print_too_much():
    os.write(2, b"odd\n" * 100)


def give_other_data():
    return {"x": 2}


BAD = {
    kill_itself: "the process ended with -9",
    leave_the_interpreter: "the process ended with 0",
    hang: "no answer",
    take_memory: "MemoryError",
    hide_that_memory_is_short: "out of memory",
    run_code: "code was executed",
    raise_something: "IndexError: out of range",
    say_nothing_useful: "a message without the file",
    say_too_much: "lines: name",
    print_too_much: "100 lines on the terminal",
    give_other_data: "has changed",
}


@pytest.mark.parametrize("act", BAD, ids=lambda act: act.__name__)
def test_failures_are_seen(tmp_path, monkeypatch, act):
    """The mutations that fail are named, and all others are carried out."""

    def make(folder):
        folder.mkdir()
        (folder / "name").write_bytes(bytes(100))
        return [folder / "name"]

    def look(file, way):
        return (act() or {"x": 1}) if file.read_bytes().startswith(b"bad") else {"x": 1}

    def mutate(content, random):
        return b"bad"

    kind = Kind(make, look, lambda file, before, after: before == after, mutate)
    monkeypatch.setitem(KINDS, "any", kind)
    monkeypatch.setattr(fuzz, "HANG", 0.3)
    mutations = fuzz.Fuzz("any", kind, tmp_path, seed=0)
    bad = [number for number in range(7) if mutations.start(number)[0].read_bytes() == b"bad"]
    assert 0 < len(bad) < 7

    report = fuzz.fuzz("any", range(7))
    names = [failure.partition(" of seed 0 (name): ")[0] for failure in report.failures]
    assert names == [f"any, mutation {number}" for number in bad]
    assert all(BAD[act] in failure for failure in report.failures)
    assert report.outcomes["same"] == 7 - len(bad)
