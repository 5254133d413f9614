"""Files that are whole or not there: written beside their place, then renamed."""

import argparse
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import torch

import cfg
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


def own_folder(path: Path) -> filelock.FileLock:
    """Makes a run's folder and takes the lock in it, for this process alone.

    Raises:
        UserError: another process has it, or it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path / ".lock")
        lock.acquire(timeout=0)
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
    return lock


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


_NAMES = {"network", "dataset", "class_names", "transform"}


def open_checkpoint(args: argparse.Namespace) -> tuple[dict, dict]:
    """Reads --checkpoint; says what it belongs to.

    Args:
        args: the flags of `add_checkpoint_flags`. Those that name a network and a data set are needed where the
            checkpoint does not name them; for CLIP they also say where its weights lie now.

    Returns:
        The checkpoint, and its setup: `network` (or `clip`), `dataset`, and if it is one of ours what the run tracked.

    Raises:
        UserError: no such checkpoint, a name is missing, or the network is another one than the checkpoint's.
    """
    checkpoint = load_checkpoint(args.checkpoint, "Give the path of a best.pth or ckpt.pth.")
    setup = checkpoint.get("setup", {})
    if not isinstance(setup, dict) or (
        setup and not (setup.keys() >= _NAMES and isinstance(setup.get("clip", {}), dict))
    ):
        asked = "The checkpoint's `setup` says what it belongs to: network, dataset, class_names and transform."
        raise UserError(asked, f"It is {str(setup)[:200]}.", "Give another file.")
    clip = {"model": args.clip_model, "pretrained": args.pretrained, "config": args.clip_config}
    clip = {name: value for name, value in clip.items() if value}
    if setup:
        _require_same_network(setup, args.network, clip)
    elif not args.dataset or bool(args.network) == bool(clip) or len(clip) == 1:
        raise UserError(
            "This checkpoint does not say what it belongs to, as those of the original repository do not.",
            f"Given: --network {args.network}, --dataset {args.dataset}"
            f"{', and of CLIP ' + ', '.join(clip) if clip else ''}.",
            "Type for example: --network resnet18 --dataset flowers102, or for CLIP: --clip-model ViT-B-32-quickgelu"
            " --pretrained openai --dataset flowers102",
        )
    given = {name: value for name, value in {"network": args.network, "dataset": args.dataset}.items() if value}
    if clip:
        given |= {"clip": setup.get("clip", {}) | clip, "network": setup.get("network", "CLIP")}
    return checkpoint, setup | given


def _require_same_network(setup: dict, network: str | None, clip: dict[str, str]) -> None:
    """Refuses flags that name another network than the checkpoint's; CLIP's files may have moved."""
    own = setup.get("clip", {})
    moved = {name: os.path.isfile(value) and own.get(name) != value for name, value in clip.items()}
    others = {name: value for name, value in clip.items() if not moved[name] and own.get(name) != value}
    if own and not others and not network:
        return
    if clip or (network and network != setup["network"]):
        raise UserError(
            f"{', '.join(clip.values()) or f'--network {network}'}: the checkpoint's own network is needed.",
            f"It was trained with {'CLIP ' if own else '--network '}{setup['network']}.",
            "Leave out --network, --clip-model, --pretrained and --clip-config; for CLIP give files that have moved.",
        )
