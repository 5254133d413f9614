"""Writes files whole or not at all: under a temporary name, then renamed. Only one process of a run writes."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

import cfg
from errors import RunError, UserError
from locks import locked
from tools.common.processes import is_first


def write_whole(path: Path, write: Callable[[Path], object], keep: Path | None = None) -> None:
    """Lets `write` make a temporary file, then renames it to `path`. A crash leaves the old file as it was.

    Only the first process of a run writes.

    Args:
        keep: where the old file is moved to. After a crash it may be there, with no file at `path`.

    Raises:
        RunError: the file cannot be written (disk full, no permission).
    """
    if not is_first():
        return
    if path.is_dir():
        raise unwritable(path, IsADirectoryError("it is a folder"))
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")  # the ending tells matplotlib the format
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if keep and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        explanation = unwritable(path, error)  # before deleting the half-written file frees its space
        with suppress(OSError):
            temporary.unlink()
        raise explanation from None


@contextmanager
def own_folder(path: Path) -> Iterator[None]:
    """Makes a run's folder and holds its lock, for all processes that carry out this run.

    Where the file system has no locks, it says so and goes on without.

    Raises:
        UserError: another process holds the lock, or the folder cannot be made.
    """
    if not is_first():
        yield
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        holding = locked(path / ".lock", seconds=0)
    except filelock.Timeout:
        raise UserError(
            f"{path} belongs to this run.",
            "Another process is working in it.",
            "Wait for it, stop it, or change an argument (--seed, say).",
        ) from None
    except OSError as error:
        raise UserError(
            f"The run's folder is made in results_path ({cfg.results_path}).",
            f"That failed: {error}",
            "Set VP_RESULTS_PATH, or results_path in cfg.py, to a folder that you may write in.",
        ) from None
    with holding as lock:
        if lock is None:
            print(f"{path}: this file system has no locks. Do not start this run twice at a time.", flush=True)
        yield


def empty_folder(path: Path) -> None:
    """Deletes everything in a folder of `own_folder` except its lock."""
    for entry in path.iterdir() if is_first() else ():
        if entry.name != ".lock":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def forget(path: Path) -> None:
    """Deletes a file, if there is one."""
    if is_first():
        path.unlink(missing_ok=True)


def unwritable(path: Path, error: Exception) -> RunError:
    """The error for a file that cannot be written: disk full, no permission."""
    free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else None
    reason = str(error).splitlines()[0]
    if free is not None and free < 2**16 and not isinstance(error, OSError):
        reason = "No space left on device"  # torch reports positions in the file instead
    room = "no folder" if free is None else f"{free / 1e6:.1f} MB are free there"
    return RunError(
        f"{path} has to be written.",
        f"It could not be: {reason} ({room}).",
        "Earlier files are untouched. Free disk space or correct the permissions, then type the command again.",
    )


def write_json(path: Path, content: Any) -> None:
    write_whole(path, lambda file: file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8"))


def read_json(path: Path) -> dict:
    """The dict in a JSON file; {} if there is no file.

    Raises:
        UserError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        return content
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path} is read.", f"It is damaged: {error}", "Delete it, or start over with --fresh."
        ) from None
