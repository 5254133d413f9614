"""What commands write to terminals, pipes and log files: names that these cannot encode, and progress bars."""

import os
import subprocess
import sys
from functools import partialmethod

import pytest
from make_data import make_folders, noise, write_image
from tiny import ROOT
from tqdm import tqdm

import cfg
from tools.common import processes

NAME = "\u732b"  # a cat; neither ASCII nor cp1252 has it
ENCODINGS = ("ascii", "cp1252", "ascii:strict")
SCRIPTS = [path for folder in ("experiments", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]
SCRIPTS = [path for path in SCRIPTS if "__main__" in path.read_text(encoding="utf-8")]


def start(words: list, encoding: str) -> subprocess.CompletedProcess:
    settings = {"PYTHONIOENCODING": encoding, "VP_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    settings |= {"VP_DATA_PATH": str(cfg.data_path), "VP_RESULTS_PATH": str(cfg.results_path)}
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"} | settings
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=environment, capture_output=True)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("act", "code"),
    [
        (f"lambda: print('{NAME}')", 0),
        (f"lambda: print('{NAME}', file=sys.stderr)", 0),
        (f"lambda: list(tqdm([1], desc='{NAME}', disable=False))", 0),
        (f"lambda: (_ for _ in ()).throw(UserError('{NAME}', 'b', 'c'))", 2),
    ],
    ids=["stdout", "stderr", "bar", "mistake"],
)
def test_a_name_that_cannot_be_encoded_is_an_escape(act, code, encoding):
    text = "import sys\nfrom errors import UserError\nfrom tools.common.command import run_command\n"
    done = start(["-c", f"{text}from tqdm import tqdm\nrun_command({act})"], encoding)
    assert done.returncode == code and b"Traceback" not in done.stderr, done.stderr
    assert b"\\u732b" in done.stdout + done.stderr


def test_a_name_that_is_no_text_is_an_escape():
    """Linux lets file names be any bytes. Python has these as lone surrogates, which UTF-8 cannot write."""
    text = "from tools.common.command import run_command\nrun_command(lambda: print('caf\\udce9'))"
    done = start(["-c", text], "utf-8:strict")
    assert (done.returncode, done.stdout.strip()) == (0, b"caf\\udce9"), done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_ends_in_one_way(script):
    """They all write through `run_command`, which lets them write any name."""
    last = script.read_text(encoding="utf-8").split('if __name__ == "__main__":')[1].strip()
    assert last in ("run_command(main)", "run_experiment(train, parser)")


@pytest.mark.slow
def test_commands_about_names_that_cannot_be_encoded(tmp_path, monkeypatch, encoding="ascii"):
    """Classes, files and folders of such names: a run, its table, report and predictions; and a mistake."""
    monkeypatch.setattr(cfg, "results_path", tmp_path / NAME)
    make_folders(cfg.data_path, "small", classes=(NAME, "dog"), counts={"train": 2, "val": 1, "test": 2})
    write_image(picture := tmp_path / f"{NAME}.png", noise(0))
    flags = ["--network", "tiny", "--dataset", "small", "--epoch", "1"]
    run = start(["tests/tiny.py", "experiments/cnn/ilm_vp.py", *flags], encoding)
    assert run.returncode == 0 and b"\\u732b -> " in run.stdout, run.stderr
    assert b"epoch 1/1 training" not in run.stderr  # no bar in a file
    assert run.stdout.count(b"epoch   1/1") == 1
    (checkpoint,) = cfg.results_path.rglob("best.pth")
    predict = ["tests/tiny.py", "tools/predict.py", "--checkpoint", checkpoint, picture]
    for words in (["tools/results_table.py"], ["tools/results_table.py", "--missing"], ["tools/report.py"], predict):
        done = start(words, encoding)
        assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"\\u732b") == 2  # the file, then the class
    done = start(["tools/prepare_data.py", NAME], encoding)
    assert done.returncode == 2 and b"Traceback" not in done.stderr and b"\\u732b" in done.stderr


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_are_drawn_on_a_terminal_only(terminal, monkeypatch):
    monkeypatch.setattr(tqdm, "__init__", partialmethod(tqdm.__init__, disable=False))  # undone after the test
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    processes.connect()
    assert tqdm([1]).disable == (not terminal)
