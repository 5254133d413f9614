"""tools/launch.py and the script of docs/clusters.md on a real SLURM of two nodes, made by tests/slurm_cluster.py."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from itertools import accumulate
from pathlib import Path

import pytest
from conftest import same
from slurm_cluster import cluster, free_ports, missing
from test_experiments import SMALL, checkpoint, only_run
from test_run import without_times
from tiny import ROOT

import cfg

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.usefixtures("small"),
]
SCRIPT = "experiments/cnn/ilm_vp"

# A run whose first two starts are so slow that they reach their time limit.
SLOW_AT_FIRST = f"""
import runpy, sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from tiny import prepare_process
from tools.common.run_folder import RunFolder

with open(sys.argv[1], "a+") as starts:
    starts.write("start\\n")
    starts.seek(0)
    pause = 4 if len(starts.readlines()) < 3 else 0
end_epoch = RunFolder.end_epoch
RunFolder.end_epoch = lambda *args: (end_epoch(*args), time.sleep(pause))
prepare_process()
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def slurm():
    with cluster() as variables:
        yield variables


@pytest.fixture
def environment(slurm):
    own = {"VP_DATA_PATH": str(cfg.data_path), "VP_RESULTS_PATH": str(cfg.results_path), "VP_DEVICE": "cpu"}
    own |= {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{slurm['PATH']}"}
    return os.environ | slurm | own


@pytest.fixture
def launch(environment, tmp_path):
    """launch([words, ...], *flags) -> the array's number, once its jobs have ended."""

    def start(commands: list[list], *flags: object) -> str:
        file = tmp_path / "commands"
        file.write_text("".join(f"{shlex.join(map(str, words))}\n" for words in commands))
        words = [sys.executable, "tools/launch.py", str(file), "--gpus", "0", "--cpus", "1", *map(str, flags)]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        array = re.search(r"squeue --job (\d+)", done.stdout)[1]
        wait_for(array, environment)
        return array

    return start


def wait_for(job: str, environment: dict[str, str], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    squeue = ["squeue", "--noheader", "--job", job]
    while queue := subprocess.run(squeue, env=environment, capture_output=True, text=True).stdout:
        assert time.monotonic() < deadline, queue
        time.sleep(0.3)


def states(array: str, environment: dict[str, str]) -> dict[int, str]:
    """How the jobs of an array ended, by their numbers in it."""
    show = ["scontrol", "show", "job", array]
    text = subprocess.run(show, env=environment, capture_output=True, text=True, check=True).stdout
    numbers, names = re.findall(r"ArrayTaskId=(\d+)", text), re.findall(r"JobState=(\w+)", text)
    return dict(zip(map(int, numbers), names, strict=True))


def output(array: str, number: int, stream: str) -> str:
    job = f"{array}_{number}"
    return (cfg.results_path / "logs" / "submitit" / job / f"{job}_0_log.{stream}").read_text()


def test_three_jobs_two_at_a_time(launch, environment, tmp_path):
    code = "import sys, time; print(time.time()); time.sleep(3); print(time.time())"
    array = launch([[sys.executable, "-c", code, number] for number in range(3)], "--limit", 2)
    assert states(array, environment) == dict.fromkeys(range(3), "COMPLETED")
    changes = []
    for number in range(3):
        begin, end = (float(line) for line in output(array, number, "out").splitlines() if line[0].isdigit())
        changes += [(begin, 1), (end, -1)]
    at_a_time = list(accumulate(change for _, change in sorted(changes)))
    assert max(at_a_time) == 2 and at_a_time[-1] == 0


def test_a_command_that_fails(launch, environment):
    """The others go on; its job's state and output tell."""
    commands = [[sys.executable, "-c", "raise SystemExit('it is tired')"], ["true"]]
    array = launch(commands, "--limit", 2)
    assert states(array, environment) == {0: "FAILED", 1: "COMPLETED"}
    assert "it is tired" in output(array, 0, "err")


def test_a_time_limit_and_going_on(launch, environment, run_script, tmp_path):
    """The job reaches its limit, is queued again and continues, twice; it ends with what one start would give."""
    words = (*SMALL, "--epoch", 30)
    whole = run_script(SCRIPT, *words)
    (run := only_run(SCRIPT)).rename(tmp_path / "whole")
    (tmp_path / "slow.py").write_text(SLOW_AT_FIRST)
    command = [sys.executable, tmp_path / "slow.py", tmp_path / "starts", ROOT / f"{SCRIPT}.py", *words]
    # SLURM counts in minutes, and looks every 30 s. submitit asks for a signal 90 s before the limit, this for 40 s.
    array = launch([command, ["true"]], "--limit", 2, "--hours", 1 / 60, "--sbatch", "signal=USR2@40")
    assert states(array, environment) == {0: "COMPLETED", 1: "COMPLETED"}, output(array, 0, "err")
    assert len((tmp_path / "starts").read_text().splitlines()) >= 3
    assert len(re.findall(r"Continuing after epoch \d+ of 30", output(array, 0, "out"))) >= 2
    assert without_times(json.loads((run / "result.json").read_text())) == without_times(whole)
    for name in ("ckpt.pth", "best.pth"):
        assert same(checkpoint(run / name), checkpoint(tmp_path / "whole" / name))


def test_one_run_on_two_nodes(environment, run_script, tmp_path):
    """The script of docs/clusters.md, without GPUs, on a network that needs none: the losses are one process's."""
    words = (*SMALL, "--epoch", "3", "--batch-size", "7")
    run_script(SCRIPT, *words)
    (run := only_run(SCRIPT)).rename(tmp_path / "one")
    text = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    script = re.search(r"```\n(#SBATCH --nodes=2.*?)```", text, re.DOTALL)[1]
    for there, here in (
        (" --gpus-per-node=4", ""),
        ("--cpus-per-task=16", f"--cpus-per-task=1 --output={tmp_path}/out"),
        ("--nproc_per_node=4", "--nproc_per_node=1"),
        (":29500", f":{free_ports(1)[0]}"),
        ("experiments/cnn/full_finetune.py --network instagram --dataset sun397", "tests/tiny.py "),
    ):
        assert script.count(there) == 1
        script = script.replace(there, here)
    (tmp_path / "job.sh").write_text(f"#!/bin/bash\n{script.rstrip()} {shlex.join([f'{SCRIPT}.py', *words])}\n")
    sbatch = ["sbatch", "--parsable", str(tmp_path / "job.sh")]
    done = subprocess.run(sbatch, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wait_for(done.stdout.strip(), environment)
    assert (run / "result.json").is_file(), (tmp_path / "out").read_text()
    assert json.loads((run / "result.json").read_text())["processes"] == 2
    one, two = (
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "one", run)
    )
    losses = ("train_loss", "val_loss", "test_loss")
    for a, b in zip(one, two, strict=True):
        assert [b[name] for name in losses] == pytest.approx([a[name] for name in losses], abs=1e-5)
