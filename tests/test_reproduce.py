"""The papers' tables as shell loops: their commands, and how they are run. A stand-in for Python runs nothing."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from select import select

import numpy as np
import pytest
from conftest import load_script
from tiny import ROOT

import cfg
from data.catalog import find_dataset
from errors import Interrupted
from models.clip_source import find_clip
from models.network_source import find_network
from tools.common.run import Run
from tools.common.run_folder import RunFolder

TABLES = {  # script -> how many commands
    "ilm_vp_cnn": 13 * 3 * 5 * 3,
    "ilm_vp_clip": 12 * 2 * 3,
    "evp_clip": 12 * 5 * 3,
    "evp_cnn": 12 * 2 * 3,
    "evp_ablations": 12 * 3,
    "data_scales": 12 * 4 * 3 * 3,
    "corruptions": (4 + 4) * 3,
    "offline": 5 * 3,
    "methods": (len(list((ROOT / "experiments" / "cnn").glob("*.py"))) - 4) * 3,  # without four: see methods.sh
    "blm_cnn": 12 * 2 * 5 * 3,
    "blm_clip": 12 * 3 * 3,
    "smm": 12 * 3 * (2 + 3) * 3,
    "lor_vp": 2 * 3 * (1 + 2) * 3,
    "auto_vp": 13 * 2 * (1 + 4) * 3,
    "acavp": 12 * (4 + 1) * 3,
    "attr_vr": 11 * 3 * 3,
    "ares": 10 * (1 + 2) * 3,
    "dvp": 11 * 2 * 3,
    "rvp": 4 * 11 * 3,
    "black_box": (1 + 3) * 3,
    "evidence": 3 * (11 + 1) * 3,
    "dam_vp": 7 * 3 * (1 + 2) * 3,
}
SETTINGS = """
    DATASETS NETWORKS METHODS SEEDS EPOCH FLAGS JOBS DRY_RUN PYTHON CLIP FRACTIONS ABLATIONS WIDTHS OUTPUTS CHOICES
    ATTRIBUTES SERVICES BUDGETS ENCODER HEADS SEARCH CUDA_VISIBLE_DEVICES
"""
SMALL = {"DATASETS": "dtd", "NETWORKS": "resnet18", "METHODS": "rlm_vp flm_vp", "SEEDS": "1 2 3"}  # 6 runs

_bash = shutil.which("bash")
_old = not _bash or subprocess.run([_bash, "-c", "[[ ${BASH_VERSINFO[0]}${BASH_VERSINFO[1]} -ge 44 ]]"]).returncode
pytestmark = pytest.mark.skipif(bool(_old), reason="needs bash 4.4")


class Shell:
    """Runs the scripts in a shell where `python` writes down its arguments and then does what a test says."""

    def __init__(self, folder: Path):
        self.record, self.folder = folder / "record", folder
        self.bin = folder / "the bin"
        self.bin.mkdir()
        self.env = {key: value for key, value in os.environ.items() if key not in SETTINGS.split()}
        self.env |= {"PATH": f"{self.bin}:{os.environ['PATH']}", "RECORD": str(self.record)}
        self.env |= {"CLIP": ""}  # there is no tiny CLIP
        self.env |= {"VP_DATA_PATH": str(cfg.data_path), "VP_RESULTS_PATH": str(cfg.results_path)}
        self.command("nvidia-smi", "echo NVIDIA-SMI has failed; exit 9")

    def command(self, name: str, body: str) -> Path:
        file = self.bin / name
        file.write_text(f"#!{_bash}\n{body}\n")
        file.chmod(0o755)
        return file

    def python(self, body: str, name: str = "python") -> Path:
        """`$all` there holds the arguments."""
        lines = (
            f'[[ $1 == -c ]] && exec "{sys.executable}" "$@"',  # common.sh reads cfg.py
            "all=$*",
            'echo "start $$ ${CUDA_VISIBLE_DEVICES-none} $PWD $all" >>"$RECORD"',
            f"( {body} ); code=$?",
            'echo "end $$ ${CUDA_VISIBLE_DEVICES-none} $PWD $all" >>"$RECORD"',
            "exit $code",
        )
        return self.command(name, "\n".join(lines))

    def run(self, script: str, root: Path = ROOT, **env: str) -> subprocess.CompletedProcess:
        file = root / "experiments" / "reproduce" / f"{script}.sh"
        how = {"env": self.env | env, "cwd": self.folder, "capture_output": True, "text": True, "timeout": 60}
        return subprocess.run([str(file)], **how)

    def dry(self, script: str, **env: str) -> list[str]:
        done = self.run(script, DRY_RUN="1", **env)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    def events(self) -> list[list[str]]:
        """[start or end, process, GPU, working directory, arguments] of what `python` was asked to run."""
        return [line.split(" ", 4) for line in self.record.read_text().splitlines()] if self.record.exists() else []


@pytest.fixture
def shell(tmp_path) -> Shell:
    shell = Shell(tmp_path)
    shell.python("echo 'epoch   1/1  test acc 0.5000'; echo 'Test accuracy 0.5000 after the last epoch (1).'")
    return shell


class Reached(Exception):
    """A script has taken its flags and would start."""


def start_of(path: str):
    """The script's main as far as the run's start: argv -> its Run, or for a tool its arguments."""
    module = load_script(path.removesuffix(".py"))

    def stop(args):
        raise Reached(args)

    if path.startswith("tools/"):
        module.open_checkpoint = stop

    def start(argv: list[str]):
        if not path.startswith("tools/"):
            args = module.parser.parse_args(argv)
            find_dataset(args.dataset)
            find_clip(args.clip_model, args.pretrained) if "/clip/" in path else find_network(args.network)
            return Run(args, module.parser)
        with pytest.raises(Reached) as caught:
            module.main(argv)
        return caught.value.args[0]

    return start


@pytest.mark.parametrize("script", TABLES)
def test_the_commands_are_accepted_by_the_scripts_they_name(script, shell):
    commands = [shlex.split(line) for line in shell.dry(script)]
    assert len({tuple(words) for words in commands}) == len(commands) == TABLES[script]
    starts = {path: start_of(path) for path in {words[1] for words in commands}}
    trained = set()
    for python, path, *argv in commands:
        assert python == "python"
        reached = starts[path](argv)
        if path.startswith("tools/"):
            assert reached.checkpoint.parent in trained  # evaluations come after the trainings they need
            assert reached.corruptions == cfg.data_path / "CIFAR-10-C"
        else:
            trained.add(reached.folder.path)


@pytest.mark.parametrize("script", TABLES)
def test_every_loop_runs_three_seeds(script, shell):
    commands = [shlex.split(line) for line in shell.dry(script) if "experiments/" in line]
    seeds = [words[words.index("--seed") + 1] for words in commands]
    assert len(set(seeds)) == 3 and len({seeds.count(seed) for seed in seeds}) == 1


def test_the_table_of_imagenet_networks_is_the_papers(shell):
    commands = [shlex.split(line) for line in shell.dry("ilm_vp_cnn")]
    values = [{words[i] for words in commands} for i in (1, 3, 5, 7)]
    assert [len(each) for each in values] == [5, 3, 13, 3]
    assert values[1] == {"resnet18", "resnet50", "instagram"} and values[3] == {"7", "8", "9"}


def test_the_environment_narrows_a_table(shell):
    flags = "--precision bfloat16 --pretrained '/my clip/a $b.pt'"
    lines = shell.dry("ilm_vp_cnn", **SMALL, EPOCH="2", FLAGS=flags)
    assert [shlex.split(line) for line in lines] == [
        f"python experiments/cnn/{method}.py --network resnet18 --dataset dtd --seed {seed} --epoch 2".split()
        + shlex.split(flags)
        for method in ("rlm_vp", "flm_vp")
        for seed in "123"
    ]
    assert len(shell.dry("evp_ablations", ABLATIONS=",--no-diversity", SEEDS="1 2")) == 4
    assert len(shell.dry("data_scales", DATASETS="svhn dtd", FRACTIONS="0.5", METHODS="evp", SEEDS="1")) == 2
    one = {"DATASETS": "dtd", "NETWORKS": "resnet18", "SEEDS": "7"}
    assert [line.split()[-3] for line in shell.dry("smm", WIDTHS="1 2", METHODS="smm", **one)] == ["dtd", "1", "2"]
    assert [line.split()[-3] for line in shell.dry("lor_vp", OUTPUTS="ilm", **one)] == ["dtd", "ilm"]
    assert len(shell.dry("auto_vp", CHOICES="", **one)) == 1
    assert [line.split()[-3] for line in shell.dry("dam_vp", HEADS="yes", **one)] == ["dtd", "--head"]
    assert len(shell.dry("auto_vp", CHOICES="--scale 1.0", **one)) == 2
    assert len(shell.dry("methods", METHODS="smm", SEEDS="7")) == 1
    lines = shell.dry("black_box", METHODS="vp blackvip", BUDGETS="60 70", CLIP="/my clip", SEEDS="7", ENCODER="e")
    assert [line.split(" --budget ")[1] for line in lines] == [
        f"{budget} {own} --seed 7" for budget in (60, 70) for own in ("--black-box", "--encoder e")
    ]
    assert all("/my clip/tiny-clip.json" in shlex.split(line) for line in lines)


def test_zero_shot_is_given_no_epochs(shell):
    lines = shell.dry("evp_clip", DATASETS="dtd", EPOCH="3", SEEDS="42")
    assert [" --epoch 3" in line for line in lines] == [False, True, True, True, True]


def test_the_corruptions_evaluation_finds_shorter_runs_too(shell):
    lines = shell.dry("corruptions", DATASETS="cifar100", EPOCH="3", SEEDS="42")
    assert [re.findall(r"CIFAR-100-C|_epoch\d", line) for line in lines[4:]] == [
        ["CIFAR-100-C", *2 * [f"_epoch{epochs}"]] for epochs in (0, 3, 3, 3)
    ]


def test_printed_commands_and_runs_are_the_same(shell):
    python = shell.python("true", name="my python")
    env = {**SMALL, "PYTHON": str(python), "FLAGS": "--pretrained '/my clip/x.pt'"}
    printed = "\n".join(shell.dry("ilm_vp_cnn", **env))
    assert not shell.events()
    subprocess.run([_bash], input=printed, cwd=ROOT, env=shell.env, text=True, check=True, timeout=60)
    typed = [event[3:] for event in shell.events()]
    shell.record.unlink()
    assert shell.run("ilm_vp_cnn", **env).returncode == 0
    assert [event[3:] for event in shell.events()] == typed
    assert len(typed) == 2 * 6 and {place for place, _ in typed} == {str(ROOT)}


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_a_failure_is_told_and_stops_nothing(shell, jobs):
    shell.python(
        "echo 'epoch   1/1  x'; echo;"
        "[[ $all != *rlm_vp*'--seed 2'* ]] || { echo An image.; echo 'No image.' >&2; echo 'Type: this' >&2; exit 2; };"
        "echo 'Test accuracy 0.5000 after the last epoch (1).'"
    )
    done = shell.run("ilm_vp_cnn", **SMALL, JOBS=jobs)
    command = "python experiments/cnn/rlm_vp.py --network resnet18 --dataset dtd --seed 2"
    *lines, summary, failed = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (1, "")
    assert summary == f"5 done, 0 skipped, 1 failed. Output: {cfg.results_path}/logs"
    assert failed == f"failed: {command}"
    assert len(lines) == 6 and all(
        re.match(r"\d\d:\d\d:\d\d (done   |failed ) python \S+\.py --", line) for line in lines
    )
    (line,) = (line for line in lines if " failed " in line)
    found = re.fullmatch(r"\S+ failed  (.*): exit status 2, An image. No image. Type: this \(all of it: (.*)\)", line)
    assert found and found[1] == command and "No image." in Path(found[2]).read_text()
    assert sum(line.endswith(": Test accuracy 0.5000 after the last epoch (1).") for line in lines) == 5


@pytest.mark.usefixtures("small")
def test_what_the_scripts_print_tells_done_from_skipped(shell, run_script, words, tmp_path, capsys, monkeypatch):
    """The stand-in prints what the real scripts print."""

    def status(script: str, *argv: object) -> tuple[str, str]:
        capsys.readouterr()
        run_script(script, *argv)
        (tmp_path / "printed").write_text(capsys.readouterr().out)
        shell.python(f"cat '{tmp_path}/printed'")
        line, _ = shell.run("ilm_vp_cnn", DATASETS="dtd", NETWORKS="n", METHODS="rlm_vp", SEEDS="1").stdout.splitlines()
        return line.split()[1], line.partition(": ")[2]

    training = ("experiments/cnn/rlm_vp", *words("experiments/cnn/rlm_vp"), "--epoch", 1)
    first, again = status(*training), status(*training)
    assert (first[0], again[0]) == ("done", "skipped")
    assert first[1] == again[1] and re.fullmatch(r"Test accuracy 0\.\d{4} after the last epoch \(1\)\.", first[1])

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(RunFolder, "finish", interrupt)
        run_script(*training, "--fresh")
    assert status(*training)[0] == "done"

    zero_shot = ("experiments/clip/zero_shot", *words("experiments/clip/zero_shot"))
    assert [status(*zero_shot)[0], status(*zero_shot)[0]] == ["done", "skipped"]

    np.save(tmp_path / "labels.npy", np.arange(4))
    np.save(tmp_path / "fog.npy", np.zeros((20, 32, 32, 3), np.uint8))
    (best,) = (cfg.results_path / "cnn" / "rlm_vp").glob("*/best.pth")
    evaluation = ("--checkpoint", best, "--corruptions", tmp_path, "--output", tmp_path / "corruptions.json")
    first, again = (status("tools/evaluate", *evaluation) for _ in range(2))
    assert (first[0], again[0]) == ("done", "skipped")
    assert first[1] == again[1] and re.fullmatch(r"Test accuracy \S+ \(\d+ of 20\); mean( 0\.\d{4}){6}", first[1])


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_what_was_not_trained_to_its_end_is_not_evaluated(shell):
    for method, status in {"vp": "finished", "evp": "failed"}.items():
        run = cfg.results_path / "clip" / method / "ViT-B-32-quickgelu-openai_cifar10_seed42_epoch1000"
        run.mkdir(parents=True)
        (run / "result.json").write_text(f'{{\n  "status": "{status}"\n}}')
    shell.python("[[ $all != *clip/evp* ]]")
    assert shell.run("corruptions", METHODS="vp evp", JOBS="2", SEEDS="42").returncode == 1
    asked = [arguments for event, *_, arguments in shell.events() if event == "start"]
    assert {line.split()[0] for line in asked[:2]} == {"experiments/clip/vp.py", "experiments/clip/evp.py"}
    (evaluated,) = asked[2:]
    assert re.match(r"tools/evaluate\.py .*/clip/vp/\S+/best\.pth --output .*/clip/vp/\S+/corruptions.json$", evaluated)


# The stand-in waits until this many of them run at a time.
TOGETHER = 'until (( $(grep -c ^start "$RECORD") >= JOBS )); do sleep 0.01; done'


def most_at_once(events: list[list[str]], of: int) -> dict[str, int]:
    """The largest number of runs at a time, for each value of the event's word number `of`."""
    now, most = {}, {}
    for event in events:
        now[event[of]] = now.get(event[of], 0) + (1 if event[0] == "start" else -1)
        most[event[of]] = max(most.get(event[of], 0), now[event[of]])
    return most


@pytest.mark.parametrize(
    ("jobs", "visible", "expected"),
    [
        ("1", None, {"0": 1}),
        ("2", None, {"0": 1, "1": 1}),  # nvidia-smi lists 0 and 1
        ("2", "3,GPU-5", {"3": 1, "GPU-5": 1}),
        ("4", "3,5", {"3": 2, "5": 2}),
        ("2", "", {"": 2}),
    ],
)
def test_jobs_are_dealt_over_the_gpus(shell, jobs, visible, expected):
    shell.command("nvidia-smi", "echo 0; echo 1")
    shell.python(f"{TOGETHER}; sleep 0.0$((RANDOM % 5 + 1))")
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert shell.run("ilm_vp_cnn", **SMALL, JOBS=jobs, **env).returncode == 0
    events = shell.events()
    assert len(events) == 2 * 6 and most_at_once(events, of=2) == expected


def test_without_gpus_none_is_named(shell):
    shell.python(TOGETHER)
    shell.run("ilm_vp_cnn", **SMALL, JOBS="3")
    assert most_at_once(shell.events(), of=2) == {"none": 3}


@pytest.mark.parametrize(
    ("number", "stubborn", "interrupts"),
    [
        (signal.SIGINT, False, signal.SIG_DFL),
        (signal.SIGINT, True, signal.SIG_DFL),
        (signal.SIGTERM, False, signal.SIG_IGN),  # a background job of another script, which Ctrl-C does not reach
    ],
)
def test_ctrl_c_stops_every_run_and_says_how_to_go_on(shell, number, stubborn, interrupts):
    how = "''" if stubborn else "'echo stopped >>\"$RECORD\"; exit 130'"
    shell.python(f'trap {how} {number.name.removeprefix("SIG")}; echo ready >>"$RECORD"; sleep 60')
    alive, held = os.pipe()  # every run holds an end of it
    process = subprocess.Popen(
        [str(ROOT / "experiments" / "reproduce" / "ilm_vp_cnn.sh")],
        env=shell.env | SMALL | {"JOBS": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=(held,),
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, interrupts),
    )
    os.close(held)
    end = time.monotonic() + 30
    while shell.events().count(["ready"]) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    os.killpg(process.pid, number)  # as the terminal does
    if stubborn:
        assert "Stopping" in process.stderr.readline()
        time.sleep(0.2)
        assert process.poll() is None
        os.killpg(process.pid, number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1].startswith("Stopped. To continue, type the same command again")
    assert select([alive], [], [], 10)[0] and os.read(alive, 1) == b""  # its end: none is left
    os.close(alive)
    assert [shell.events().count([word]) for word in ("ready", "stopped")] == [2, 0 if stubborn else 2]


def test_mistakes_are_refused_before_anything_starts(shell):
    for settings, found in (
        ({"METHODS": "ilm"}, "There is no experiments/cnn/ilm.py. METHODS are names of its folder: "),
        ({"SEED": "7"}, "SEED is set. The setting is called SEEDS."),
    ):
        done = shell.run("ilm_vp_cnn", DRY_RUN="1", **settings)
        assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith(found)
    script = ROOT / "experiments" / "reproduce" / "offline.sh"
    done = subprocess.run([script, "--help"], env=shell.env, capture_output=True, text=True)
    assert done.returncode == 2 and "takes no arguments" in done.stderr


def test_any_working_directory_and_a_checkout_whose_path_has_spaces(shell, tmp_path):
    root = tmp_path / "my checkout"
    shutil.copytree(ROOT / "experiments", root / "experiments")
    shutil.copy(ROOT / "cfg.py", root)
    del shell.env["VP_RESULTS_PATH"]
    env = {**SMALL, "METHODS": "rlm_vp", "SEEDS": "1"}
    done = shell.run("offline", root, **env)  # which sources another one
    assert (done.returncode, done.stderr) == (0, "")
    assert f"1 done, 0 skipped, 0 failed. Output: {root}/results/logs" in done.stdout
    assert len(list((root / "results" / "logs").iterdir())) == 1
    assert done.stdout.split()[3].endswith("rlm_vp.py") and "--epoch 5" in done.stdout
    done = shell.run("ilm_vp_cnn", root, **env, VP_RESULTS_PATH="mine")  # seen from where it is typed
    assert done.returncode == 0 and (shell.folder / "mine" / "logs").is_dir()


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"JOBS": "two"}, "JOBS=two: how many runs at a time"),
        ({"PYTHON": "no-python"}, "PYTHON=no-python does not read cfg.py"),
        ({"FLAGS": "--template 'a photo"}, "its quotes do not match"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(shell, env, message):
    done = shell.run("evp_clip", **env)
    assert done.returncode == 2 and message in done.stderr and not shell.events()


def test_an_old_bash_is_told_which_one_is_needed(shell, tmp_path):
    folder = tmp_path / "experiments" / "reproduce"
    shutil.copytree(ROOT / "experiments" / "reproduce", folder)
    common = folder / "common.sh"
    common.write_text(common.read_text().replace("-ge 44", "-ge 4400"))
    done = shell.run("evp_clip", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"\S+evp_clip.sh needs bash 4.4 or newer; this is .*\n", done.stderr)
