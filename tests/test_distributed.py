"""Two processes, started by torchrun, carry out one run: they get the numbers of one process, and only one prints."""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
import timm
import torch
from test_experiments import METHODS, checkpoint, only_run
from test_run import wait_for_epoch
from tiny import ROOT

import cfg
from algorithms import distributed
from errors import Interrupted
from models.part import rebuilt
from models.sample_specific import SampleSpecificVisualPrompt
from tools.common import flag_types
from tools.common.run_folder import RunFolder

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("small", "float64")]
NORMALISED = ("experiments/cnn/full_finetune", "experiments/cnn/smm")  # batch normalisation that learns needs CUDA
BLACK_BOXES = ("experiments/cnn/bar", "experiments/clip/bar", "experiments/clip/blackvip")  # one process
WHOLE_BATCHES = ("experiments/cnn/c_avp",)  # refused where there are several processes
SCRIPTS = [script for script in METHODS if script not in (*NORMALISED, *BLACK_BOXES, *WHOLE_BATCHES)]
FEW = ["experiments/cnn/ilm_vp", "experiments/clip/evp"]
# Of 24 images, batches of 7 leave 3 for the last one, 2 and 1. Batches of 23 leave 1, which joins them.
BATCH_SIZE = dict.fromkeys(SCRIPTS, 7) | {"experiments/cnn/ilm_vp": 23, "experiments/clip/evp": 23}
MORE = {"experiments/clip/ilm_tp_vp": ("--mapping-source", "train")}


def torchrun(
    script: str, *words: object, processes: int = 2, environment: dict[str, str] | None = None
) -> subprocess.Popen:
    own = environment or {"VP_DEVICE": "cpu", "TINY_FLOAT64": "1"}
    environment = os.environ | own | {"VP_DATA_PATH": str(cfg.data_path), "VP_RESULTS_PATH": str(cfg.results_path)}
    environment["TQDM_DISABLE"] = "1"
    environment.setdefault("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    pipe = subprocess.PIPE
    command += [str(ROOT / "tests" / f"{script}.py"), *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def read(script: str) -> tuple[dict, list[dict], dict, dict]:
    """Receipt, log, checkpoint and test predictions of a script's one run."""
    run = only_run(script)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    predictions = json.loads((run / "test_predictions.json").read_text())
    return (
        json.loads((run / "result.json").read_text()),
        log,
        torch.load(run / "ckpt.pth", weights_only=True),
        predictions,
    )


def assert_close(one, two, where: str) -> None:
    """Equality of nested values but for rounding; times left out."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one.keys() - {"seconds", "images_per_second", "figure_seconds", "processes"}:
            assert_close(one[key], two[key], f"{where}, {key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for index, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_close(a, b, f"{where}, {index}")
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(two, one, rtol=1e-7, atol=1e-9, msg=lambda text: f"{where}: {text}")
    elif isinstance(one, float):
        assert two == pytest.approx(one, rel=1e-9, abs=1e-12), where
    else:
        assert one == two, where


@pytest.mark.parametrize(
    ("scripts", "size", "processes"),
    [
        pytest.param(FEW, None, 2, id="a few"),
        pytest.param(FEW, 22, 3, marks=pytest.mark.slow, id="the third has none of the last two images"),
        pytest.param(SCRIPTS, None, 2, marks=pytest.mark.slow, id="all"),
    ],
)
def test_several_processes_give_the_numbers_of_one(
    scripts, size, processes, words, tiny_clip, run_script, monkeypatch, tmp_path
):
    """Losses, accuracies, maps, what is learned, the optimizer's and the counters' state: of every method."""
    commands = [
        [script, *words(script), "--epoch", "3", "--batch-size", str(size or BATCH_SIZE[script]), *MORE.get(script, ())]
        for script in scripts
    ]
    commands.append(["experiments/clip/zero_shot", *words("experiments/clip/zero_shot"), "--batch-size", "7"])
    monkeypatch.setattr(cfg, "results_path", tmp_path / "two")
    monkeypatch.setenv("VP_MEMORY", "0.000001")  # each computes its part of a batch in pieces of one image
    process = torchrun("several_processes", json.dumps(commands), processes=processes)
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
        assert (one[0]["processes"], two[0]["processes"]) == (1, processes)
        for part in range(4):
            assert_close(one[part], two[part], script)


FAST = ("--network", "tiny", "--dataset", "small", "--batch-size", 7)


def start(path: str, *words: object) -> subprocess.Popen:
    return torchrun("tiny", ROOT / f"{path}.py", *words)


def said(err: str) -> list[str]:
    """What the processes themselves wrote to stderr: not torchrun's log, nor its report of who failed."""
    own = err.partition("Traceback (most recent call last)")[0].splitlines()
    return [line for line in own if line.strip() and not re.match(r"[WEI]\d{4} |\*+$|\[.*Gloo", line)]


@pytest.mark.parametrize("mistake", [("--dataset", "smal"), pytest.param(("--batch-size", 1), marks=pytest.mark.slow)])
def test_a_mistake_is_told_once(mistake):
    out, err = (process := start("experiments/cnn/ilm_vp", *FAST, *mistake)).communicate(timeout=120)
    assert process.returncode != 0 and out == ""
    assert len(said(err)) == 3, err
    assert not list(cfg.results_path.glob("*/*/*/*"))


@pytest.mark.slow
def test_what_the_first_process_alone_finds_is_told_once():
    """The run's folder is taken. The other processes, which wait for the first, print nothing."""
    run = cfg.results_path / "cnn/ilm_vp/tiny_small_seed7_epoch3_batch-size7"
    run.mkdir(parents=True)
    with filelock.FileLock(run / ".lock"):
        process = start("experiments/cnn/ilm_vp", *FAST, "--epoch", 3)
        _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    told = said(err)
    assert sum("Another process is working in it" in line for line in told) == 1, err
    assert "Error" not in "".join(told), err
    # In old versions of torch the store goes with the first process, and the others cannot ask whether it has spoken.
    assert len(told) == 3 or (torch.__version__ < "2.6" and sum("is gone" in line for line in told) == 1), err


def test_gradients_add_up_through_synchronised_normalisation(tmp_path):
    """Parts of different sizes, also empty ones: conv and normalisation have one process's gradients, in float64.

    torch's SyncBatchNorm needs a GPU. The test has one that sums through torch.distributed instead, as that does.
    """
    process = torchrun("synchronised_normalisation", tmp_path / "gradients.pt")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-3000:]
    for images, (one, several) in torch.load(tmp_path / "gradients.pt", weights_only=True).items():
        for a, b in zip(one, several, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12, msg=lambda text, n=images: f"{n} images: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("script", NORMALISED)
def test_batch_normalisation_of_several_processes_needs_a_gpu(script):
    _, err = start(script, *FAST).communicate(timeout=120)
    assert said(err)[1:] == [
        "torch's SyncBatchNorm needs CUDA; the device is cpu.",
        "Start one process: python instead of torchrun.",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for torchrun's children")
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_run_and_one_alone_goes_on(victim, run_script):
    words = (*FAST, "--epoch", 40)
    result = run_script("experiments/cnn/ilm_vp", *words)
    one = read("experiments/cnn/ilm_vp")
    run = only_run("experiments/cnn/ilm_vp")
    shutil.rmtree(run)
    process = start("experiments/cnn/ilm_vp", *words)
    wait_for_epoch(run, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[victim]), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert err.count("One of them is gone") + err.count("Interrupted.") == 1, err
    done = checkpoint(run / "ckpt.pth")["epoch"] + 1
    assert 1 <= done < 40
    assert run_script("experiments/cnn/ilm_vp", *words)["epochs_done"] == result["epochs_done"]
    for a, b in zip(one, read("experiments/cnn/ilm_vp"), strict=True):
        assert_close(a, b, f"continued after epoch {done}")


@pytest.mark.slow
def test_an_epoch_is_not_lost_between_numbers_of_processes(run_script):
    """A run of one process stops half way, two processes continue: the next map is made from all their counts."""
    words = (*FAST, "--mapping-source", "train", "--epoch", 4)
    run_script("experiments/cnn/ilm_vp", *words)
    one = read("experiments/cnn/ilm_vp")
    shutil.rmtree(run := only_run("experiments/cnn/ilm_vp"))

    def stop(self, epoch, record):
        end_epoch(self, epoch, record)
        raise KeyboardInterrupt

    end_epoch = RunFolder.end_epoch
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(RunFolder, "end_epoch", stop)
        run_script("experiments/cnn/ilm_vp", *words)
    out, err = start("experiments/cnn/ilm_vp", *words).communicate(timeout=120)
    assert "Continuing after epoch 1 of 4" in out, err
    for a, b in zip(one, read("experiments/cnn/ilm_vp"), strict=True):
        assert_close(a, b, str(run))


@pytest.mark.parametrize(("mapping", "device"), [("auto", "cuda:3"), ("cuda", "cuda:3"), ("cpu", "cpu")])
def test_each_process_has_its_gpu(mapping, device, monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "8", "RANK": "7", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: torch.ones(1))  # there is no GPU here
    assert flag_types.device(mapping) == torch.device(device)
    with pytest.raises(argparse.ArgumentTypeError, match="with torchrun"):
        flag_types.device("cuda:1")


def test_normalisation_layers_are_converted_in_place_of_their_own(monkeypatch):
    """timm's layer that also activates keeps doing so, and parameters stay the ones that the optimizer gets."""
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    network = timm.create_model("tf_efficientnet_lite0", num_classes=4)
    parameters = list(network.parameters())
    model = distributed.synchronise_batch_norm(network, torch.device("cuda"))
    assert distributed.is_synchronised(model) and not distributed.is_synchronised(torch.nn.BatchNorm2d(3))
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    plain = torch.nn.BatchNorm2d
    assert not any(type(layer) in (plain, timm.layers.BatchNormAct2d) for layer in model.modules())
    assert distributed.synchronise_batch_norm(torch.nn.Linear(2, 2), torch.device("cpu")) is not None


def test_a_prompt_whose_normalisation_is_synchronised_stays_what_it_is(monkeypatch):
    """Its checkpoint is that of one process: the same class, arguments and names."""
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    prompt = SampleSpecificVisualPrompt(16, torch.zeros(3), torch.ones(3))
    described, state = prompt.described(), prompt.state_dict()
    converted = distributed.synchronise_batch_norm(prompt, torch.device("cuda"))
    assert converted is prompt and distributed.is_synchronised(prompt)
    assert described.keys() == prompt.described().keys() and described["class"] == prompt.described()["class"]
    assert state.keys() == prompt.state_dict().keys()
    assert rebuilt(prompt.described()).state_dict().keys() == state.keys()
