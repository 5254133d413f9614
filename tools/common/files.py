"""Files that are whole or not there: written beside their place, then renamed."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from errors import RunError, UserError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make a temporary file and renames it to `path`; a crash leaves the old file as it was.

    Raises:
        RunError: the file cannot be written (disk full, no permission).
    """
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")  # the ending tells matplotlib the format
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from None


def unwritable(path: Path, error: Exception) -> RunError:
    """The error for a file that cannot be written: disk full, no permission."""
    free = f"{shutil.disk_usage(path.parent).free / 1e6:.1f} MB are free there" if path.parent.is_dir() else "no folder"
    return RunError(
        f"{path} has to be written.",
        f"It could not be: {str(error).splitlines()[0]} ({free}).",
        "What had been saved before is untouched. Make room or mend the permissions, then type the command again.",
    )


def write_json(path: Path, content: Any) -> None:
    write_whole(path, lambda file: file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8"))


def read_json(path: Path) -> dict:
    """The content of a JSON file that holds a dict, {} where there is none.

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


def save_checkpoint(path: Path, content: dict) -> None:
    write_whole(path, lambda file: torch.save(content, file))


def load_checkpoint(path: Path, hint: str) -> dict:
    """Reads a checkpoint onto the CPU; only tensors and plain types are admitted, nothing in it is executed.

    Args:
        hint: what to type next where that fails.

    Raises:
        UserError: no such file, cut off, or it holds anything else.
    """
    asked = f"{path}: a checkpoint is needed."
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(asked, "There is no such file.", hint) from None
    except pickle.UnpicklingError:
        raise UserError(asked, "It is damaged, or holds more than tensors and plain values: refused.", hint) from None
    except Exception as error:  # a cut-off or foreign file raises nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(asked, f"It cannot be read: {reason}", hint) from None
    if not isinstance(content, dict):
        raise UserError(asked, f"It holds a {type(content).__name__}.", hint)
    return content


def checkpoint_setup(checkpoint: dict, network: str | None, dataset: str | None) -> dict:
    """What a checkpoint belongs to: `network`, `dataset`, and if it is one of ours `class_names` and `transform`.

    Args:
        network, dataset: what the user says; needed where the checkpoint does not name them.

    Raises:
        UserError: a name is missing, or the network is another one than the checkpoint's.
    """
    setup = checkpoint.get("setup", {})
    if not isinstance(setup, dict):
        raise UserError("The checkpoint's `setup` says what it belongs to.", f"It is {setup!r}.", "Give another file.")
    if not setup and not (network and dataset):
        raise UserError(
            "This checkpoint does not say what it belongs to, as those of the original repository do not.",
            f"Given: --network {network}, --dataset {dataset}.",
            "Add both, for example: --network resnet18 --dataset flowers102",
        )
    if network and setup.get("network", network) != network:
        raise UserError(
            f"--network {network}: the checkpoint's own network is needed.",
            f"It was trained with --network {setup['network']}.",
            "Leave --network out.",
        )
    return setup | {name: value for name, value in {"network": network, "dataset": dataset}.items() if value}
