"""A study: the trials of a search in an SQLite file, which several processes and machines share."""

from collections.abc import Sequence
from pathlib import Path

import filelock
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from errors import UserError
from tools.searching.axes import Axis

optuna.logging.set_verbosity(optuna.logging.WARNING)
FULL_TRIALS = 5  # so many trials end before the pruner has a median to compare with


class Study:
    """The trials of one search.

    A process holds a lock file while it carries out a trial. The lock of a process that was killed is free, so the next
    process that looks for work carries out the same values again. Their run continues from its last epoch.

    Args:
        folder: where the study's files are.
        pruning: after so many epochs a trial is stopped if its best accuracy is below the median; None for never.
    """

    def __init__(self, folder: Path, axes: Sequence[Axis], pruning: int | None):
        self.folder = folder
        self._distributions = {axis.name: axis.distribution for axis in axes}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._turn = filelock.FileLock(folder / ".lock")  # one process at a time reads and writes the file
            with self._turn:
                self._study = self._open(pruning)
        except OSError as error:
            next_step = "Set VP_RESULTS_PATH, or results_path in cfg.py, to a folder that you may write in."
            raise UserError(f"The search is kept in {folder}.", f"That failed: {error}", next_step) from None

    def _open(self, pruning: int | None) -> optuna.Study:
        file = self.folder / "study.db"
        pruner = optuna.pruners.NopPruner()
        if pruning is not None:
            pruner = optuna.pruners.MedianPruner(n_startup_trials=FULL_TRIALS, n_warmup_steps=pruning + 1)
        try:
            storage = optuna.storages.RDBStorage(f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": 60}})
            return optuna.create_study(
                storage=storage,
                study_name="search",
                direction="maximize",
                load_if_exists=True,
                pruner=pruner,
                sampler=optuna.samplers.TPESampler(constant_liar=True),  # for trials that are under way at one time
            )
        except Exception as error:  # of sqlite3, SQLAlchemy, alembic or optuna
            found = f"It cannot be opened: {' '.join(str(error).split())[:300]}"
            raise UserError(f"{file} holds the search.", found, "Move it away to start over.") from None

    def claim(self, most: int) -> tuple[Trial, filelock.FileLock] | None:
        """The next trial, and the lock that says that it is under way; None if the study has `most` trials."""
        with self._turn:
            self._release_what_was_killed()
            if len(self.trials()) >= most:
                return None
            trial = self._study.ask(self._distributions)
            lock = self._lock(trial.number)
            lock.acquire(timeout=0)
            return trial, lock

    def _release_what_was_killed(self) -> None:
        for trial in self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            lock = self._lock(trial.number)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                continue
            lock.release()
            self._study.tell(trial.number, state=TrialState.FAIL)
            self._study.enqueue_trial(trial.params)

    def _lock(self, number: int) -> filelock.FileLock:
        return filelock.FileLock(self.folder / f".trial{number}.lock")

    def trials(self) -> list[FrozenTrial]:
        """All trials, those under way too, and none that was cut off and is carried out again."""
        with self._turn:
            all_of_them = self._study.get_trials(deepcopy=False)
        return [trial for trial in all_of_them if trial.state != TrialState.WAITING and not _cut_off(trial)]

    def report(self, trial: Trial, epoch: int, accuracy: float) -> bool:
        """Keeps an epoch's validation accuracy. Returns whether the trial should be stopped now."""
        with self._turn:
            trial.report(accuracy, epoch)
            return bool(trial.should_prune())

    def end(self, trial: Trial, state: TrialState, accuracy: float | None = None, reason: str = "") -> None:
        with self._turn:
            trial.set_user_attr("reason", reason)
            self._study.tell(trial, accuracy, state)


def _cut_off(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and "reason" not in trial.user_attrs


def best_accuracy(trial: FrozenTrial) -> float | None:
    """The highest validation accuracy over a trial's epochs."""
    return trial.value if trial.state == TrialState.COMPLETE else max(trial.intermediate_values.values(), default=None)


ENDED = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "under way",
    TrialState.FAIL: "failed",
}


def cells(trial: FrozenTrial, axes: Sequence[Axis]) -> list[str]:
    """A trial's number, values, validation accuracy in percent, epochs done, and how it ended."""
    values = [axis.shown(trial.params[axis.name]) for axis in axes]
    accuracy = best_accuracy(trial)
    shown = "" if accuracy is None else f"{100 * accuracy:.1f}"
    reason = trial.user_attrs.get("reason")
    how = ENDED[trial.state] + (f": {reason}" if reason else "")
    return [str(trial.number), *values, shown, str(max(trial.intermediate_values, default=0)), how]


def table(trials: Sequence[FrozenTrial], axes: Sequence[Axis]) -> str:
    """The trials, the best first."""
    places = list(ENDED)
    ordered = sorted(trials, key=lambda one: (places.index(one.state), -(best_accuracy(one) or 0), one.number))
    head = ["trial", *(axis.name for axis in axes), "val acc", "epochs", ""]
    rows = [head, *(cells(trial, axes) for trial in ordered)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = ([*map(str.ljust, row, widths), row[-1]] for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)
