"""The processes that carry out one run, started by torchrun: who writes files, who speaks, how they meet.

All of them execute the same script, each on its device with its part of every batch. This file asks the environment,
before there is a process group. Within a run `algorithms/distributed.py` asks the group.
"""

import os
import sys
import time
from datetime import timedelta
from functools import partialmethod
from typing import Any

from tqdm import tqdm

from errors import RunError

_store: Any = None  # torchrun's, through which processes that have not met yet can talk


def launched() -> bool:
    """Whether torchrun started this process together with others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1


def is_first() -> bool:
    """Whether this process is to write files: it is alone, or the first of several."""
    return not launched() or os.environ["RANK"] == "0"


def part_of_batch() -> slice:
    """This process's part of each batch."""
    return slice(int(os.environ["RANK"]), None, int(os.environ["WORLD_SIZE"])) if launched() else slice(None)


def connect() -> None:
    """Finds the others' store, so that `may_speak` works; before anything can go wrong.

    From now on only the first of several processes tells how far they are.
    """
    global _store
    if launched():
        from torch.distributed import rendezvous  # late: commands of one process need no torch for this

        _store, _, _ = next(rendezvous("env://"))
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)


def may_speak() -> bool:
    """True in the first process that asks: one process tells of an error that many see."""
    try:
        return _store is None or _store.add("spoken", 1) == 1
    except RuntimeError:  # the store is gone, with those that might have spoken
        return True


def before_exit() -> None:
    """Gives the others time to ask, where this failed process holds the store. (In torch 2.4 torchrun does not.)"""
    if launched() and is_first() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        time.sleep(3)


def join(device) -> None:
    """Makes the process group, for tensors on the CPU and on `device`; waits until all processes are here."""
    if launched():
        import torch

        if torch.distributed.is_initialized():
            return
        backend = "cpu:gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
            backend += ",cuda:nccl"
        group = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
        try:  # an hour: machines whose caches are their own decode a data set at different speeds
            torch.distributed.init_process_group(backend, store=_store, timeout=timedelta(hours=1), **group)
        except RuntimeError as error:
            raise RunError(
                f"{group['world_size']} processes are to carry out this run.",
                f"They do not find each other: {str(error).splitlines()[0]}",
                "Where machines have several networks, name one: GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0",
            ) from None


def leave() -> None:
    """Takes the process group apart, after a run that succeeded."""
    if launched():
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
