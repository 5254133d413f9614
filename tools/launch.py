"""Many runs on a cluster: hands commands to SLURM through submitit, as one array job.

    DATASETS="dtd flowers102" python tools/launch.py experiments/reproduce/ilm_vp_cnn.sh --limit 8 --hours 12
    python tools/results_table.py --missing | python tools/launch.py - --limit 8 --partition long

The commands are those that the script prints with DRY_RUN=1, or the lines of a file or of stdin (-), to be typed in
this directory. A run that reaches its time limit is queued again and continues. A run that is already finished ends at
once, so you may type the same command again after failures. cfg.py's paths have to be the same folders on all machines.
With --executor local submitit carries out the runs on this machine, on its first GPUs; this is for a trial. JOBS=4 of
the scripts distributes runs over all GPUs of one machine.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import os
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from math import ceil

import submitit
from submitit.core.utils import FailedJobError
from submitit.helpers import Checkpointable

import cfg
from errors import RunError, UserError
from tools.common.args import Parser
from tools.common.command import run_command
from tools.common.flag_types import positive_float, positive_int, whole_number
from tools.common.machine import ROOT
from tools.common.processes import launched
from tools.common.shell import from_here, in_shell

# What to type next, by what sbatch says when it refuses an array job.
REFUSALS = {
    "generic resource": "If the cluster's nodes have no GPU, type --gpus 0.",
    "configuration source": "Type the command on a SLURM machine, or with --executor local.",
    "": "Correct --partition, --hours or --sbatch.",
}


class Command(Checkpointable):
    """A job: it carries out a command in a folder. If it is cut off at its time limit, it is queued again unchanged."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __call__(self, words: list[str]) -> None:
        process = subprocess.Popen(words, cwd=self.folder)
        try:
            code = process.wait()
        finally:  # submitit leaves by SystemExit; a run that has to end saves its state
            process.terminate()
            process.wait()
        if code:
            raise subprocess.CalledProcessError(code, words)


def main(argv: list[str] | None = None) -> list[submitit.Job]:
    args = parse(argv)
    if launched():
        found = "torchrun starts this command several times."
        raise UserError("Jobs are submitted once.", found, "Type python instead of torchrun.")
    commands = read_commands(args.commands)
    job = Command(ROOT if args.commands.endswith(".sh") else Path.cwd())
    for name in ("data_path", "results_path"):  # as in this directory, for jobs that start in the root
        os.environ[f"VP_{name.upper()}"] = str(getattr(cfg, name))
    executor = build_executor(args)
    if args.executor == "local":
        return carry_out(executor, job, commands, args.limit)
    try:
        jobs = executor.map_array(job, commands)
    except FailedJobError as error:
        reason = str(error).strip().splitlines()[-1]
        next_step = next((todo for word, todo in REFUSALS.items() if word in reason), REFUSALS[""])
        raise UserError("sbatch has to accept an array job.", reason, next_step) from None
    for submitted, command in zip(jobs, commands, strict=True):
        print(f"{submitted.job_id}  {in_shell(command)}")
    array = jobs[0].job_id.partition("_")[0]
    print(f"{len(jobs)} jobs, at most {args.limit} at a time. Output: {jobs[0].paths.folder}")
    print(f"Next:\n  squeue --job {array}\n  scancel {array}\n  python {from_here(ROOT / 'tools/results_table.py')}")
    return jobs


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(__file__, __doc__)
    parser.add_argument("commands", help="a script of experiments/reproduce, a file of commands, or - for stdin")
    parser.add_argument("--executor", choices=("slurm", "local"), default="slurm", help="default %(default)s")
    parser.add_argument("--limit", type=positive_int, default=1, help="most jobs at a time; default %(default)s")
    parser.add_argument("--gpus", type=whole_number, default=1, help="of each job, 0 for none; default %(default)s")
    parser.add_argument("--cpus", type=positive_int, default=8, help="CPU cores of each job; default %(default)s")
    parser.add_argument("--memory", type=positive_float, help="of each job, in GB; default: the cluster's own")
    hours = "time limit of a job, in hours; then it is queued again, up to 20 times; default %(default)s"
    parser.add_argument("--hours", type=positive_float, default=24.0, help=hours)
    parser.add_argument("--partition", help="SLURM's partition; default: the cluster's own")
    more = "a further option of sbatch, account=NAME for example; may be given several times"
    parser.add_argument("--sbatch", action="append", default=[], metavar="NAME=VALUE", help=more)
    return parser.parse_args(argv)


def read_commands(source: str) -> list[list[str]]:
    """The words of each command: printed by a shell script with DRY_RUN=1, or the lines of a file or of stdin."""
    next_step = "Type for example: python tools/launch.py experiments/reproduce/offline.sh"
    if source == "-":
        text = sys.stdin.read()
    elif not os.path.isfile(source):
        raise UserError(f"{source}: a script, a file of commands, or - is needed.", "There is no such file.", next_step)
    elif source.endswith(".sh"):
        environment = os.environ | {
            "DRY_RUN": "1",
            "LC_ALL": "C.UTF-8",
        }  # else bash has its own quotes for other characters than ASCII
        done = subprocess.run(["bash", source], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{source} has to print its commands.", done.stderr.strip() or "It failed.", next_step)
        text = done.stdout
    else:
        text = Path(source).read_text(encoding="utf-8", errors="replace")
    try:
        commands = [shlex.split(line, comments=True) for line in text.splitlines()]
    except ValueError as error:
        raise UserError(f"{source}: one command a line is needed.", f"{error}.", next_step) from None
    if not any(commands):
        raise UserError(f"{source}: commands are needed.", "There is none in it.", next_step)
    return [with_settings(words) for words in commands if words]


def with_settings(words: list[str]) -> list[str]:
    """A command as a program and its arguments, also with NAME=VALUE before it; `python` is this interpreter."""
    settings = list(takewhile(re.compile(r"\w+=").match, words))
    program = [sys.executable if word == "python" else word for word in words[len(settings) :][:1]]
    return [*(["env", *settings] if settings else []), *program, *words[len(settings) + 1 :]]


def build_executor(args: argparse.Namespace) -> submitit.AutoExecutor:
    folder = cfg.results_path / "logs" / "submitit"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        executor = submitit.AutoExecutor(folder / "%j", cluster=args.executor, slurm_max_num_timeout=20)
    except (RuntimeError, OSError) as error:
        raise UserError(
            "Jobs are submitted to SLURM.",
            f"That failed: {error}",
            "Type the command on a SLURM machine, or with --executor local.",
        ) from None
    sbatch = {name.lstrip("-"): value for name, _, value in (option.partition("=") for option in args.sbatch)}
    executor.update_parameters(
        name="visual-prompting",
        timeout_min=ceil(60 * args.hours),
        gpus_per_node=args.gpus,
        cpus_per_task=args.cpus,
        slurm_array_parallelism=args.limit,
        **({"mem_gb": args.memory} if args.memory else {}),
        **({"slurm_partition": args.partition} if args.partition else {}),
        **({"slurm_additional_parameters": sbatch} if sbatch else {}),
    )
    return executor


def carry_out(
    executor: submitit.AutoExecutor, command: Command, commands: list[list[str]], limit: int
) -> list[submitit.Job]:
    """Waits for the jobs, `limit` at a time, and prints how each ended.

    Raises:
        RunError: some jobs failed. It names their output files.
    """

    def one(words: list[str]) -> tuple[submitit.Job, bool]:
        job = executor.submit(command, words)
        job.wait()
        failed = job.exception() is not None
        print(f"{'failed' if failed else 'done'}  {in_shell(words)}: {job.paths.stdout}", flush=True)
        return job, failed

    with ThreadPoolExecutor(limit) as slots:
        ended = list(slots.map(one, commands))
    if failures := [str(job.paths.stderr) for job, failed in ended if failed]:
        found = f"{len(failures)} failed. Their messages are in\n" + "\n".join(failures)
        asked = f"{len(commands)} runs should be carried out."
        raise RunError(asked, found, "Correct the cause, then type the same command again.")
    return [job for job, _ in ended]


if __name__ == "__main__":
    run_command(main)
