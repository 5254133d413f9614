"""Two processes, started by torchrun, that carry out one run: the same numbers as one, and one voice."""

import json
import os
import subprocess
import sys

import pytest
import torch
from test_experiments import METHODS, only_run
from tiny import ROOT

import cfg

pytestmark = pytest.mark.usefixtures("small")
SCRIPTS = [script for script in METHODS if script != "experiments/cnn/full_finetune"]  # batch normalisation needs CUDA
# Of 24 images, batches of 7 leave 3 for the last one, 2 and 1; batches of 23 leave 1 and none.
BATCH_SIZE = dict.fromkeys(SCRIPTS, 7) | {"experiments/cnn/ilm_vp": 23, "experiments/clip/evp": 23}
MORE = {"experiments/clip/ilm_tp_vp": ("--mapping-source", "train")}


def torchrun(script: str, *words: object, processes: int = 2) -> subprocess.Popen:
    environment = os.environ | {"VP_DATA_PATH": str(cfg.data_path), "VP_RESULTS_PATH": str(cfg.results_path)}
    environment |= {"OMP_NUM_THREADS": "1", "VP_DEVICE": "cpu"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    pipe = subprocess.PIPE
    command += [str(ROOT / "tests" / f"{script}.py"), *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def read(script: str) -> tuple[dict, list[dict], dict]:
    """Receipt, log and checkpoint of a script's one run."""
    run = only_run(script)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return json.loads((run / "result.json").read_text()), log, torch.load(run / "ckpt.pth", weights_only=True)


def assert_close(one, two, where: str) -> None:
    """Equality of nested values but for rounding; times left out."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one.keys() - {"seconds", "images_per_second", "processes"}:
            assert_close(one[key], two[key], f"{where}, {key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for index, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_close(a, b, f"{where}, {index}")
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4, msg=lambda text: f"{where}: {text}")
    elif isinstance(one, float):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6), where
    else:
        assert one == two, where


def test_two_processes_give_the_numbers_of_one(words, tiny_clip, run_script, monkeypatch, tmp_path):
    """Losses, accuracies, maps, what is learned, the optimizer's and the counters' state: of every method."""
    commands = [
        [script, *words(script), "--epoch", "3", "--batch-size", str(BATCH_SIZE[script]), *MORE.get(script, ())]
        for script in SCRIPTS
    ]
    commands.append(["experiments/clip/zero_shot", *words("experiments/clip/zero_shot"), "--batch-size", "7"])
    monkeypatch.setattr(cfg, "results_path", tmp_path / "two")
    process = torchrun("several_processes", json.dumps(commands))
    monkeypatch.setattr(cfg, "results_path", tmp_path / "one")
    for script, *flags in commands:
        run_script(script, *flags)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    assert out.count("Run folder") == len(commands)  # one speaks
    for script, *_ in commands:
        monkeypatch.setattr(cfg, "results_path", tmp_path / "one")
        one = read(script)
        monkeypatch.setattr(cfg, "results_path", tmp_path / "two")
        two = read(script)
        assert (one[0]["processes"], two[0]["processes"]) == (1, 2)
        for part in range(3):
            assert_close(one[part], two[part], script)
