"""Carries out a trial: starts the script, follows its epochs, and stops it early if the study says so."""

import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import filelock
from optuna.trial import Trial, TrialState

from errors import UserError
from tools.common.files import read_json
from tools.common.log import Log
from tools.searching.study import Study

PAUSE = 0.5  # seconds between two looks at the log
MISTAKE = UserError.exit_code


@dataclass(frozen=True)
class TrialRun:
    """The run of one trial.

    Args:
        command: program, script and flags.
        folder: the run's folder.
        output: the file that gets what the script prints.
        environment: variables that differ from those of this process.
    """

    command: list[str]
    folder: Path
    output: Path
    environment: dict[str, str] = field(default_factory=dict)

    def carry_out(self, study: Study, trial: Trial, stopping: Event) -> str | None:
        """Trains, and tells the study how the trial ended. With `stopping` it ends at once and tells nothing.

        Returns:
            The message of a run that refused its flags or data (exit code 2); else None.
        """
        self._wait_for_the_folder(stopping)
        if stopping.is_set():
            return None
        with self.output.open("ab") as text:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=text,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment,
                start_new_session=True,  # Ctrl-C reaches it through `stopping` alone
            )
            try:
                pruned = self._follow(process, study, trial, stopping)
            finally:
                process.terminate()  # the run saves its state
                process.wait()
        if stopping.is_set() and process.returncode:
            return None
        if pruned:
            study.end(trial, TrialState.PRUNED)
        elif process.returncode == 0:
            study.end(trial, TrialState.COMPLETE, read_json(self.folder / "result.json")["val_acc_best"])
        else:
            message = self._last_words(process.returncode)
            study.end(trial, TrialState.FAIL, reason=message)
            return message if process.returncode == MISTAKE else None
        return None

    def _follow(self, process: subprocess.Popen, study: Study, trial: Trial, stopping: Event) -> bool:
        """Reports every epoch until the process ends. Returns whether the trial has to stop before."""
        told = 0
        while True:
            ended = process.poll() is not None  # asked first: then the log has all of its epochs
            log = Log(self.folder / "log.jsonl")
            log.read()
            for record in log.records[told:]:
                told += 1
                if study.report(trial, record["epoch"], record["val_acc"]) and not ended:
                    return True
            if ended or stopping.is_set():
                return False
            time.sleep(PAUSE)

    def _wait_for_the_folder(self, stopping: Event) -> None:
        """Waits while another process trains the same values. Its result is then this trial's, too."""
        lock, told = filelock.FileLock(self.folder / ".lock"), False
        while self.folder.is_dir() and not stopping.is_set():
            try:
                lock.acquire(timeout=PAUSE)
            except filelock.Timeout:
                if not told:
                    print(f"Waiting for another process that works in {self.folder}", flush=True)
                told = True
                continue
            lock.release()
            return

    def _last_words(self, code: int) -> str:
        lines = [line.strip() for line in self.output.read_text(errors="replace").splitlines() if line.strip()]
        how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        return " ".join([*lines[-3:], f"({how}; all of it: {self.output})"])
