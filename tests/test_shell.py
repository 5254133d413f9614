"""Paths and commands that are printed for typing: from another drive of Windows, and quoted for its shells."""

import os
import shlex
import sys
from pathlib import Path

import pytest

from tools.common import shell
from tools.common.args import Parser
from tools.common.receipt import describe

WORDS = ["python", "evaluate.py", "--checkpoint", r"C:\my runs\best.pth"]


@pytest.fixture
def other_drive(monkeypatch):
    """The checkout lies on another drive than the working directory: there is no relative path."""

    def relpath(path):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", relpath)


def test_a_path_from_here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert shell.from_here(tmp_path / "a" / "b.py") == os.path.join("a", "b.py")


def test_the_help_of_a_script_on_another_drive(other_drive, capsys):
    parser = Parser(__file__, "")
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--help"])
    assert ended.value.code == 0
    assert f"python {Path(__file__).resolve()}" in " ".join(capsys.readouterr().out.split())
    assert shlex.split(parser.parse_args([]).command) == ["python", str(Path(__file__).resolve())]


def test_scripts_of_another_drive_tell_what_to_type(other_drive, tmp_path, run_script, small):
    result = run_script("experiments/cnn/rlm_vp", "--network", "tiny", "--dataset", "small", "--epoch", 1)
    tools = Path(shell.__file__).parents[1]
    assert f"python {tools}/evaluate.py --checkpoint {tmp_path}/best.pth" in describe(result, tmp_path)
    command = run_script("tools/results_table", "--missing", "--seeds", 8)
    assert command.startswith(f"python {tools.parent}/experiments/cnn/rlm_vp.py ")


def test_quotes_of_the_shell(monkeypatch):
    assert shlex.split(shell.in_shell(WORDS)) == WORDS
    monkeypatch.setattr(sys, "platform", "win32")
    assert shell.in_shell(WORDS) == r'python evaluate.py --checkpoint "C:\my runs\best.pth"'
    assert shell.as_typed(shlex.join(WORDS)) == shell.in_shell(WORDS)  # receipts keep the quotes of POSIX shells
