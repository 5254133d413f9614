"""What makes two results the same, and a run's names: its folder's name and its setting."""

import argparse
import hashlib
import re
from typing import Any

from tools.common.args import Parser
from tools.common.network_names import network_name
from tools.common.precision import resolve_precision

_LONGEST = 240  # characters that file systems allow, with room for more
_CLEAN = re.compile(r"[^\w.+=-]+")
# Flags that say where and how a run is carried out, not which run it is.
MACHINE = (
    "device",
    "workers",
    "gpu_cache_fraction",
    "compile",
    "share_border",
    "cuda_graph",
    "memory",
    "fresh",
    "command",
    "method",
)
CLIP = ("clip_model", "pretrained", "clip_config")
PLACE = ("network", "dataset", "seed")  # with the method, these say which cell of the tables a run belongs to


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In what two results differ, in words: none if they are the same.

    Compared are the settings, the data's fingerprint (by split), the weights' hash and the precision: what both dicts
    name, and dicts within them entry by entry. A name alone tells nothing of the images or the weights behind it.
    """
    found = []
    for name in then.keys() & now.keys():
        if isinstance(then[name], dict) and isinstance(now[name], dict):
            found += [f"{name}: {difference}" for difference in differences(then[name], now[name])]
        elif then[name] != now[name]:
            found.append(f"{name} {then[name]}, not {now[name]}")
    return sorted(found)


def own_flags(args: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The flags in which a run differs from the script's defaults, without those of MACHINE, CLIP and PLACE."""
    named = (*MACHINE, *CLIP, *PLACE)
    return {name: v for name, v in vars(args).items() if name not in named and v != parser.get_default(name)}


def setting(args: argparse.Namespace, parser: Parser, precision: str) -> list[str]:
    """`own_flags` in words, sorted. The precision is named only if it is not what `auto` gives on the device."""
    flags = own_flags(args, parser) | {"precision": precision}
    if precision == resolve_precision("auto", args.device, parser.auto_bfloat16):
        del flags["precision"]
    return sorted(name.replace("_", "-") + f" {value}" * (value is not True) for name, value in flags.items())


def run_name(args: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """A readable folder name: network, data set, seed and epochs always, other flags if they are not the default."""
    parts = [network_name(args.network), args.dataset, f"seed{args.seed}", f"epoch{args.epoch}"]
    for name, value in own_flags(args, parser).items():
        if name != "epoch":
            parts.append(name.replace("_", "-") + ("" if value is True else _as_name(str(value))))
    name = _CLEAN.sub("-", "_".join(parts))
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{hashlib.md5(name.encode()).hexdigest()[:6]}"


def _as_name(value: str) -> str:
    """A flag's value as a part of a folder's name. If it has to be changed or cut, the start of its md5 follows."""
    clean = _CLEAN.sub("-", value)[:40]
    return clean if clean == value else f"{clean}-{hashlib.md5(value.encode()).hexdigest()[:6]}"
