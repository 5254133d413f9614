"""Checkpoints: written whole, the previous one kept; read without executing code; refused if they are damaged."""

import argparse
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from errors import UserError
from tools.common.files import write_whole
from tools.common.network_names import network_name


def previous(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_checkpoint(path: Path, content: dict, *, keep_previous: bool = False) -> None:
    write_whole(path, lambda file: torch.save(content, file), previous(path) if keep_previous else None)


def states(parts: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds of each part. A part is a tensor or has state_dict()."""
    return {key: part.detach().cpu() if isinstance(part, Tensor) else part.state_dict() for key, part in parts.items()}


def restore(parts: dict[str, Any], checkpoint: dict) -> None:
    """Loads the saved `states` into the parts."""
    for key, part in parts.items():
        part.copy_(checkpoint[key]) if isinstance(part, Tensor) else part.load_state_dict(checkpoint[key])


def load_latest(path: Path, hint: str) -> tuple[dict | None, Path]:
    """The checkpoint at `path` and its file; the previous one if that is damaged or missing; None if there is neither.

    Raises:
        UserError: the only checkpoint is damaged, or both are.
    """
    there = [file for file in (path, previous(path)) if file.is_file()]
    if not there:
        return None, path
    try:
        return load_checkpoint(there[0], hint), there[0]
    except UserError as error:
        if len(there) == 1:
            raise
        content = load_checkpoint(there[1], f"{path}: {error.found} {hint}")
        print(f"{path} is damaged: {error.found}", flush=True)
        return content, there[1]


def load_checkpoint(path: Path, hint: str) -> dict:
    """Reads a checkpoint onto the CPU. It may hold tensors and plain types only; no code in it is executed.

    Args:
        hint: what to type next if that fails.

    Raises:
        UserError: the file is missing or cut off, or holds anything else.
    """
    asked = f"{path}: a checkpoint is needed."
    try:
        if zipfile.is_zipfile(path):  # torch does not check all checksums; files from before 2020 are no archives
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise ValueError(f"the checksum of {damaged} is wrong")
                if any(name.endswith("/constants.pkl") for name in archive.namelist()):  # torch 2.4 would run its code
                    raise pickle.UnpicklingError("a TorchScript archive")
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
        args: the flags of `add_checkpoint_flags`. Those for the network and the data set are needed if the checkpoint
            does not name them. For CLIP they may also give the new path of its weights.

    Returns:
        The checkpoint, and its setup: `network` (or `clip`), `dataset`, and what else a run of this repository saved.

    Raises:
        UserError: there is no such checkpoint, a name is missing, or the flags name another network than the
            checkpoint's.
    """
    checkpoint = load_checkpoint(args.checkpoint, "Give the path of a best.pth or ckpt.pth.")
    setup = checkpoint.get("setup", {})
    if not isinstance(setup, dict) or (
        setup and not (setup.keys() >= _NAMES and isinstance(setup.get("clip", {}), dict))
    ):
        asked = "The checkpoint's `setup` says what it belongs to: network, dataset, class_names and transform."
        raise UserError(asked, f"It is {str(setup)[:200]}.", "Give another file.")
    clip = {"model": args.clip_model, "pretrained": args.pretrained, "config": args.clip_config}
    clip |= {"preprocess": args.preprocess}
    clip = {name: value for name, value in clip.items() if value}
    if setup:
        _require_same_network(setup, args.network, clip)
    elif not args.dataset or bool(args.network) == bool(clip) or len(clip) == 1:
        raise UserError(
            "This checkpoint does not say what it belongs to. Those of the original repository do not.",
            f"Given: --network {args.network}, --dataset {args.dataset}"
            f"{', and of CLIP ' + ', '.join(clip) if clip else ''}.",
            "Type for example: --network resnet18 --dataset flowers102, or for CLIP: --clip-model ViT-B-32-quickgelu"
            " --pretrained openai --dataset flowers102",
        )
    given = {"dataset": args.dataset} if args.dataset else {}
    if args.network:
        given |= {"network": setup.get("network", network_name(args.network)), "source": args.network}
    if clip:
        given |= {"clip": setup.get("clip", {}) | clip, "network": setup.get("network", "CLIP")}
    return checkpoint, setup | given


def _require_same_network(setup: dict, network: str | None, clip: dict[str, str]) -> None:
    """Refuses flags that name another network than the checkpoint's. They may name moved files of the same CLIP."""
    own = setup.get("clip", {})
    moved = {name: os.path.isfile(value) and own.get(name) != value for name, value in clip.items()}
    others = {name: value for name, value in clip.items() if not moved[name] and own.get(name) != value}
    if own and not others and not network:
        return
    # weights of one's own: `models.restore` compares their hash with the checkpoint's
    moved_network = network and not own and network_name(network) != network and "weights" in setup
    if clip or (network and network != setup["network"] and not moved_network):
        raise UserError(
            f"{', '.join(clip.values()) or f'--network {network}'}: the checkpoint's own network is needed.",
            f"It was trained with {'CLIP ' if own else '--network '}{setup['network']}.",
            "Leave out --network and CLIP's flags; give only files that have moved.",
        )
