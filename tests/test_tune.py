"""tools/tune.py: axes, the shared study, pruning, failures. A stand-in for the scripts trains in no time."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from threading import Event, Thread

import filelock
import optuna
import pytest
from conftest import load_script
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from tiny import ROOT

import cfg
from errors import Interrupted, RunError, UserError
from tools.searching.axes import Axis, read_axes
from tools.searching.runs import TrialRun
from tools.searching.study import FULL_TRIALS, Study, cells

SCRIPT = str(ROOT / "experiments/cnn/auto_vp.py")
BASE = (SCRIPT, "--network", "tiny", "--dataset", "small", "--epoch", "4")
LR = "lr=0.01,0.02,0.03"

# A run as tune.py sees it: log.jsonl epoch by epoch, result.json at the end. The learning rate says how it goes.
STAND_IN = """
import json, os, sys, time
from pathlib import Path
folder, record, argv = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
values = dict(zip(argv[1::2], argv[2::2]))
lr, epochs = float(values["--lr"]), int(values["--epoch"])
run = folder / f"lr{values['--lr']}"
with record.open("a") as file:
    file.write(f"{values['--lr']}\\n")
run.mkdir(parents=True, exist_ok=True)
if lr > 0.5:
    print("cnn/auto_vp had to stop: the loss is nan.\\nNo epoch was finished.\\nTry a lower --lr.")
    sys.exit(2 if lr > 5 else 1)
with (run / "log.jsonl").open("w") as log:
    for epoch in range(1, epochs + 1):
        log.write(json.dumps({"epoch": epoch, "val_acc": 0.9 - lr, "test_acc": lr}) + "\\n")
        log.flush()
        if os.environ.get("SLOW"):
            (run / "started").touch()
            time.sleep(float(os.environ["SLOW"]))
(run / "result.json").write_text(json.dumps({"status": "finished", "val_acc_best": 0.9 - lr}))
"""


@pytest.fixture
def tune(tmp_path, monkeypatch, small):
    """tools/tune.py, whose trials are runs of the stand-in. `tune.started()` are the learning rates, in order."""
    module = load_script("tools/tune")
    stand_in, record = tmp_path / "stand_in.py", tmp_path / "started"
    stand_in.write_text(STAND_IN)
    record.touch()
    monkeypatch.setattr(module, "PROGRAM", [sys.executable, "-S", str(stand_in), str(tmp_path / "runs"), str(record)])
    monkeypatch.setattr(module, "run_name", lambda args, parser: f"lr{args.lr}")
    monkeypatch.setattr(module, "visible_gpus", list)
    monkeypatch.setattr("tools.searching.runs.PAUSE", 0.02)
    sampler = partial(optuna.samplers.RandomSampler, seed=0)
    monkeypatch.setattr(optuna.samplers, "TPESampler", lambda **how: sampler())
    (tmp_path / "runs").mkdir()
    (cfg.results_path / "cnn").mkdir(parents=True)
    (cfg.results_path / "cnn" / "auto_vp").symlink_to(tmp_path / "runs")
    module.started = lambda: record.read_text().split()
    return module


def states(trials) -> list[str]:
    return [trial.state.name for trial in trials]


# Axes ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def parser():
    return load_script("experiments/cnn/auto_vp").parser


@pytest.mark.parametrize(
    ("search", "flag", "distribution"),
    [
        ("lr=1e-3:1e-1:log", "--lr", FloatDistribution(1e-3, 1e-1, log=True)),
        ("batch-size=32,64,128", "--batch-size", CategoricalDistribution(["32", "64", "128"])),
        ("batch_size=1:64:log", "--batch-size", IntDistribution(1, 64, log=True)),
        ("--epoch=5:50", "--epoch", IntDistribution(5, 50)),
        ("scale=1:1.5", "--scale", FloatDistribution(1, 1.5)),
        ("trainable-scale=on,off", "--trainable-scale", CategoricalDistribution(["on", "off"])),
        ("mapping=full,ilm", "--mapping", CategoricalDistribution(["full", "ilm"])),
    ],
)
def test_axes(search, flag, distribution, parser):
    (axis,) = read_axes([search], ["--network", "tiny", "--dataset", "small"], parser)
    assert (axis.flag, axis.distribution) == (flag, distribution)


def test_the_words_of_a_value():
    number = Axis("--lr", "", FloatDistribution(0, 1))
    assert number.words(0.0123456789) == ["--lr", "0.01235"]
    assert number.words(1e-3) == ["--lr", "0.001"]
    switch = Axis("--trainable-scale", "", CategoricalDistribution(["on", "off"]), switch=True)
    assert (switch.words("on"), switch.words("off")) == (["--trainable-scale"], [])


@pytest.mark.parametrize(
    ("searches", "message"),
    [
        (["lr"], "a flag and its values are needed"),
        (["lr="], "a flag and its values are needed"),
        (["lr=0.1:0.01"], "The range from 0.1 to 0.01 is empty"),
        (["lr=0.1:0.1"], "is empty"),
        (["lr=0:1:log"], "The logarithm of 0 does not exist"),
        (["lr=0.1:1:loog"], "neither LOW:HIGH nor LOW:HIGH:log"),
        (["lr=0.1:much"], "neither LOW:HIGH nor LOW:HIGH:log"),
        (["lr=0.1:nan"], "neither LOW:HIGH nor LOW:HIGH:log"),
        (["lr=0.1"], "two different values"),
        (["lr=0.1,,0.2"], "two different values"),
        (["lr=0.1,0.1"], "two different values"),
        (["lr=0.1,0.2", "lr=1:2"], "--lr has two"),
        (["dataset=small,dtd"], "Type --dataset without --search"),
        (["seed=1:9"], "Type --seed without --search"),
        (["device=cpu,cuda"], "Type --device without --search"),
        (["trainable-scale=yes"], "Type --search trainable-scale=on,off"),
        (["epoch=2:4"], "--epoch is typed for every trial, too"),
        (["lrr=0.1:1"], "unrecognized arguments: --lrr 0.1.\nNothing has been started.\nDid you mean --lr?"),
        (["lr=0:1"], "--lr: a number above 0 is needed"),  # the script's own parser tells
        (["scale=0.5:9.5"], "--scale: a number from 0.1 to 5 is needed, not '9.5'"),
        (["mapping=ilm,blmm"], "--mapping: invalid choice: 'blmm'"),
    ],
)
def test_wrong_axes_are_refused(searches, message, parser):
    with pytest.raises(UserError) as caught:
        read_axes(searches, [*BASE[1:]], parser)
    assert message in str(caught.value)


# A search -----------------------------------------------------------------------------------------------------------


def test_a_search_and_the_same_command_again(tune, capsys):
    search = [*BASE, "--no-pruning", "--search", LR, "--trials", "4"]
    trials = tune.main(search)
    assert states(trials) == ["COMPLETE"] * 4
    assert [trial.value for trial in trials] == pytest.approx([0.9 - float(trial.params["lr"]) for trial in trials])
    assert tune.started() == [trial.params["lr"] for trial in trials]
    out = capsys.readouterr().out
    best = min(float(trial.params["lr"]) for trial in trials)
    assert re.search(rf"^  python \S+auto_vp.py --network tiny --dataset small --epoch 4 --lr {best}$", out, re.M)
    heading, first = re.search(r"^(trial .*)\n(.*)$", out.partition("\n\n")[2], re.M).groups()
    assert heading.split() == ["trial", "lr", "val", "acc", "epochs"]
    assert first.split()[1:] == [str(best), f"{100 * (0.9 - best):.1f}", "4", "finished"]

    assert len(tune.main(search)) == 4 and len(tune.started()) == 4  # nothing is left to do
    assert len(tune.main([*search[:-1], "6"])) == 6 and len(tune.started()) == 6


def test_another_setting_is_another_search(tune):
    first = tune.main([*BASE, "--search", LR, "--trials", "1"])
    for other in (
        [*BASE, "--seed", "8", "--search", LR],
        [*BASE, "--search", "lr=0.01,0.02"],
        [*BASE, "--scale", "1.0", "--search", LR],
    ):
        assert len(tune.main([*other, "--trials", "1"])) == 1
    assert len(first) == 1 and len(list((cfg.results_path / "studies").iterdir())) == 4
    assert len(tune.main([*BASE, "--device", "cpu", "--search", LR, "--trials", "2"])) == 2  # the first one


def test_other_images_are_another_search(tune, small):
    tune.main([*BASE, "--search", LR, "--trials", "1"])
    next((small / "val" / "ant").iterdir()).unlink()
    assert len(tune.main([*BASE, "--search", LR, "--trials", "1"])) == 1
    assert len(tune.started()) == 2


def test_a_failed_trial_is_told_and_the_search_goes_on(tune, capsys):
    trials = tune.main([*BASE, "--search", "lr=0.01,0.9", "--trials", "6"])
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert failed and all(trial.params["lr"] == "0.9" for trial in failed)
    assert len(failed) < 6 and len(trials) == 6
    assert "failed: cnn/auto_vp had to stop: the loss is nan. No epoch was finished. Try a lower --lr. (exit" in (
        capsys.readouterr().out
    )


def test_when_every_trial_fails_no_best_one_is_named(tune):
    with pytest.raises(RunError, match="None of 2 has"):
        tune.main([*BASE, "--search", "lr=0.8,0.9", "--trials", "2"])


def test_a_mistake_ends_a_search_in_which_nothing_ended_well(tune):
    with pytest.raises(UserError, match="Trial 0, before any other has ended well") as caught:
        tune.main([*BASE, "--search", "lr=8.0,9.0", "--trials", "5"])
    assert caught.value.exit_code == 2 and "had to stop" in str(caught.value) and len(tune.started()) == 1


def test_without_validation_images_a_search_is_refused(tune, small):
    shutil.rmtree(small / "val")
    with pytest.raises(UserError, match=r"has no validation split(.|\n)*--val-fraction 0.1"):
        tune.main([*BASE, "--search", LR])
    assert not tune.started()
    assert len(tune.main([*BASE, "--val-fraction", "0.2", "--search", LR, "--trials", "1"])) == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["experiments/cnn/no_vp.py", "--search", LR], "There is no such file"),
        (["tools/report.py", "--search", LR], "It has no parser"),
        ([SCRIPT], "the following arguments are required: --search"),
        ([*BASE, "--search", LR, "--fresh"], "Leave --fresh out"),
        ([*BASE, "--search", LR, "--trials", "0"], "a whole number from 1 is needed"),
        ([*BASE[:-2], "--lrr", "3", "--search", LR], "Did you mean --lr"),
        ([SCRIPT, "--dataset", "small", "--search", LR], "the following arguments are required: --network"),
    ],
)
def test_mistakes_are_told_before_anything_starts(tune, argv, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as caught:
        tune.main(argv)
    assert message in str(caught.value) and not tune.started()


def test_a_script_that_trains_nothing_is_refused(tune, tiny_clip):
    flags = [word for pair in tiny_clip.items() for word in pair]
    zero_shot = str(ROOT / "experiments/clip/zero_shot.py")
    with pytest.raises(UserError, match="clip/zero_shot does not"):
        tune.main([zero_shot, *flags, "--dataset", "small", "--search", "template=a {},b {}"])


def test_jobs_share_the_trials(tune):
    trials = tune.main([*BASE, "--search", LR, "--trials", "5", "--jobs", "3"])
    assert states(trials) == ["COMPLETE"] * 5 and len(tune.started()) == 5


def test_jobs_are_distributed_over_the_gpus(tune, monkeypatch):
    monkeypatch.setattr(tune, "visible_gpus", lambda: ["3", "GPU-5"])
    args, flags = tune.parse([*BASE, "--search", LR])
    parser = tune.read_parser(SCRIPT)
    search = tune.Search(args, flags, parser, read_axes([LR], flags, parser))
    trial, _ = search.study.claim(1)
    assert [search._run(trial, slot).environment["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["3", "GPU-5", "3"]


def test_the_visible_gpus(monkeypatch):
    module = load_script("tools/tune")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    assert module.visible_gpus() == ["3", "GPU-5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert module.visible_gpus() == []


def test_ctrl_c_keeps_the_trial_and_the_next_start_carries_it_out(tune, monkeypatch, tmp_path):
    monkeypatch.setenv("SLOW", "0.5")
    search = [*BASE, "--search", LR, "--trials", "1"]

    def press() -> None:
        end = time.monotonic() + 30
        while not list((tmp_path / "runs").glob("*/started")) and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    presser = Thread(target=press)
    presser.start()
    with pytest.raises(
        Interrupted, match=r"To continue: python tools/tune\.py .*--search lr=0\.01,0\.02,0\.03 --trials 1"
    ):
        monkeypatch.chdir(ROOT)
        tune.main(search)
    presser.join()
    monkeypatch.delenv("SLOW")
    trials = tune.main(search)
    assert states(trials) == ["COMPLETE"]
    assert tune.started() == 2 * [trials[0].params["lr"]]  # the same values again


# The study ----------------------------------------------------------------------------------------------------------

AXIS = Axis("--lr", "0:1", FloatDistribution(0.0, 1.0))


def test_the_median_prunes_after_the_first_trials(tmp_path):
    study = Study(tmp_path / "study", [AXIS], pruning=1)
    for number in range(FULL_TRIALS):
        trial, lock = study.claim(100)
        for epoch in (1, 2, 3):
            assert not study.report(trial, epoch, 0.1 * number)
        study.end(trial, TrialState.COMPLETE, 0.1 * number)
        lock.release()
    bad, _ = study.claim(100)
    assert [study.report(bad, epoch, 0.19) for epoch in (1, 2)] == [False, True]  # the median is 0.2
    good, _ = study.claim(100)
    assert [study.report(good, epoch, 0.21) for epoch in (1, 2)] == [False, False]
    never = Study(tmp_path / "study", [AXIS], pruning=None)
    trial, _ = never.claim(100)
    assert not never.report(trial, 3, 0.0)


def test_a_pruned_run_is_stopped(tune, monkeypatch):
    monkeypatch.setenv("SLOW", "0.3")
    seen = []

    def report(study, trial, epoch, accuracy):
        seen.append(epoch)
        trial.report(accuracy, epoch)
        return epoch == 2

    monkeypatch.setattr(Study, "report", report)
    with pytest.raises(RunError, match="None of 1 has"):
        tune.main([*BASE, "--search", LR, "--trials", "1"])
    assert seen == [1, 2]
    assert not list((cfg.results_path / "cnn" / "auto_vp").glob("*/result.json"))
    (folder,) = (cfg.results_path / "studies").iterdir()
    (trial,) = Study(folder, [AXIS], None).trials()
    assert trial.state == TrialState.PRUNED and cells(trial, [])[1:] == [
        f"{90 - 100 * float(trial.params['lr']):.1f}",
        "2",
        "pruned",
    ]


def test_two_processes_claim_different_trials_up_to_the_number_asked_for(tmp_path):
    one, other = (Study(tmp_path / "study", [AXIS], None) for _ in range(2))
    (first, _a), (second, _b) = one.claim(2), other.claim(2)
    assert {first.number, second.number} == {0, 1}
    assert one.claim(2) is None and other.claim(2) is None


def test_the_trial_of_a_killed_process_is_carried_out_again(tmp_path):
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path; from test_tune import AXIS, Study\n"
        "trial, lock = Study(Path(sys.argv[3]), [AXIS], None).claim(2)\n"
        "print(trial.params['lr'], flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(ROOT), str(ROOT / "tests"), str(tmp_path / "study")]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lr = float(process.stdout.readline())
    study = Study(tmp_path / "study", [AXIS], None)
    mine, _a = study.claim(2)
    assert mine.params["lr"] != lr and study.claim(2) is None  # it is under way there
    process.kill()
    process.communicate()
    again, _b = study.claim(2)
    assert again.params["lr"] == lr
    assert len(study.trials()) == 2 and study.claim(2) is None


def test_a_file_that_is_no_study_is_refused(tmp_path):
    (tmp_path / "study.db").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"study.db holds the search(.|\n)*Move it away to start over"):
        Study(tmp_path, [AXIS], None)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Set VP_RESULTS_PATH"):
        Study(tmp_path / "file" / "study", [AXIS], None)


def test_a_run_of_another_process_is_waited_for(tmp_path, capsys):
    run = TrialRun([], tmp_path, tmp_path / "output")
    lock = filelock.FileLock(tmp_path / ".lock")
    lock.acquire()
    waiting = Thread(target=run._wait_for_the_folder, args=(Event(),))
    waiting.start()
    waiting.join(0.7)
    assert waiting.is_alive() and "Waiting for another process" in capsys.readouterr().out
    lock.release()
    waiting.join(5)
    assert not waiting.is_alive()


@pytest.mark.slow
def test_real_runs(tmp_path, small):
    """From the command to the receipts: two jobs, then the same command for one more trial."""
    module = load_script("tools/tune")
    module.PROGRAM = [sys.executable, str(ROOT / "tests/tiny.py")]
    script = str(ROOT / "experiments/cnn/ilm_vp.py")
    search = [script, "--network", "tiny", "--dataset", "small", "--epoch", "2", "--search", "lr=1e-3:1e-1:log"]
    trials = module.main([*search, "--trials", "2", "--jobs", "2", "--no-pruning"])
    trials = module.main([*search, "--trials", "3", "--no-pruning"])
    assert states(trials) == ["COMPLETE"] * 3
    results = [json.loads(file.read_text()) for file in (cfg.results_path / "cnn" / "ilm_vp").glob("*/result.json")]
    assert sorted(result["val_acc_best"] for result in results) == sorted(trial.value for trial in trials)
    assert all(result["status"] == "finished" for result in results)
    assert all(max(trial.intermediate_values) == 2 for trial in trials)
