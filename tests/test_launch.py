"""tools/launch.py: commands carried out by submitit's local executor, and what SLURM would be given."""

import json
import shlex
import sys
from pathlib import Path

import pytest
from tiny import ROOT

import cfg
from errors import RunError, UserError

pytestmark = pytest.mark.usefixtures("small")
RUN = [sys.executable, "tests/tiny.py", "experiments/cnn/rlm_vp.py", "--network", "tiny", "--dataset", "small"]


@pytest.fixture
def launch(run_script, tmp_path):
    def start(commands, *flags):
        file = tmp_path / "commands"
        file.write_text("".join(f"{shlex.join(words)}\n" for words in commands))
        return run_script("tools/launch", file, *flags)

    return start


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A stand-in for SLURM's commands: sbatch keeps what it is given."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name in ("srun", "sbatch"):
        script = f'#!/bin/sh\ncp "$1" {folder}/given\necho Submitted batch job 12\n'
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder / "given"


def test_local_commands_and_one_that_fails(launch, capsys):
    commands = [["true"], [sys.executable, "-c", "raise SystemExit('it is tired')"]]
    with pytest.raises(RunError, match=r"2 runs(.|\n)*1 failed") as caught:
        launch(commands, "--executor", "local", "--limit", 2, "--hours", 0.1)
    out = capsys.readouterr().out
    assert sorted(line.split()[0] for line in out.splitlines()) == ["done", "failed"]
    assert "it is tired" in Path(str(caught.value).splitlines()[2]).read_text()


@pytest.mark.slow
def test_local_runs_and_one_that_fails(launch, capsys):
    commands = [[*RUN, "--epoch", "1"], [*RUN, "--epoch", "0"], [*RUN, "--epoch", "1", "--seed", "8"]]
    with pytest.raises(RunError, match=r"3 runs(.|\n)*1 failed") as caught:
        launch(commands, "--executor", "local", "--limit", 2, "--hours", 0.1)
    out = capsys.readouterr().out
    assert sorted(line.split()[0] for line in out.splitlines()) == ["done", "done", "failed"]
    assert "a whole number from 1 is needed" in Path(str(caught.value).splitlines()[2]).read_text()
    runs = sorted((cfg.results_path / "cnn/rlm_vp").iterdir())
    assert [json.loads((run / "result.json").read_text())["seed"] for run in runs] == [7, 8]


def test_what_slurm_is_given(launch, cluster, capsys):
    commands = [["python", "a.py"], ["VP_RESULTS_PATH=/x", "python", "b.py", "--lr", "1"], ["c d"]]
    more = ("--gpus", 2, "--cpus", 4, "--memory", 32, "--hours", 1.5, "--partition", "long", "--sbatch", "account=me")
    jobs = launch(commands, "--limit", 2, *more)
    assert [job.job_id for job in jobs] == ["12_0", "12_1", "12_2"]
    given = cluster.read_text().splitlines()
    expected = (
        "array=0-2%2",
        "gpus-per-node=2",
        "cpus-per-task=4",
        "mem=32GB",
        "time=90",
        "partition=long",
        "account=me",
    )
    assert {f"#SBATCH --{option}" for option in expected} <= set(given)
    out = capsys.readouterr().out
    assert f"12_1  env VP_RESULTS_PATH=/x {sys.executable} b.py --lr 1" in out
    assert "3 jobs, at most 2 at a time" in out


def test_a_job_continues_after_its_time(launch, cluster):
    """submitit asks a job that is cut off for its resubmission: the same job."""
    (job,) = launch([["python", "a.py"]])
    submission = job.submission()
    again = submission.function.checkpoint(*submission.args)
    assert (type(again.function).__name__, again.args) == ("Command", ([sys.executable, "a.py"],))


def test_the_commands_of_a_script(run_script, cluster, monkeypatch, capsys):
    monkeypatch.setenv("SEEDS", "7 8")
    monkeypatch.setenv("METHODS", "rlm_vp")
    run_script("tools/launch", ROOT / "experiments/reproduce/offline.sh", "--limit", 3)
    flags = "--network efficientnet_lite0 --dataset pictures --seed {} --epoch 5"
    lines = [f"12_{i}  {sys.executable} experiments/cnn/rlm_vp.py {flags.format(7 + i)}" for i in range(2)]
    assert capsys.readouterr().out.splitlines()[:2] == lines


@pytest.mark.parametrize(
    ("said", "next_step"),
    [
        ("error: invalid partition specified: long", "Correct --partition"),
        ("error: Batch job submission failed: Invalid generic resource (gres) specification", "type --gpus 0"),
        ("fatal: Could not establish a configuration source", "--executor local"),
    ],
)
def test_sbatch_refuses(said, next_step, launch, cluster):
    (cluster.parent / "sbatch").write_text(f"#!/bin/sh\necho 'sbatch: {said}' >&2; exit 1\n")
    with pytest.raises(UserError) as refused:
        launch([["python", "a.py"]])
    assert said in refused.value.found and next_step in refused.value.next_step


def test_mistakes(run_script, launch, tmp_path, monkeypatch):
    with monkeypatch.context() as nowhere, pytest.raises(UserError, match=r"(?i)slurm(.|\n)*--executor local"):
        nowhere.setenv("PATH", str(tmp_path))
        launch([["python"]])
    with pytest.raises(UserError, match="no such file"):
        run_script("tools/launch", tmp_path / "none.sh")
    with pytest.raises(UserError, match="There is none in it"):
        launch([])
    (tmp_path / "x.sh").write_text("echo mistake >&2; exit 3")
    with pytest.raises(UserError, match="mistake"):
        run_script("tools/launch", tmp_path / "x.sh")
    (tmp_path / "x").write_text("python 'a")
    with pytest.raises(UserError, match="No closing quotation"):
        run_script("tools/launch", tmp_path / "x")
