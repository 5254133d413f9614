"""The processes that carry out one run, started by torchrun: which one writes files and prints, and how they connect.

All of them execute the same script, each on its device with its part of every batch. This file reads the environment,
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

_store: Any = None  # torchrun's store, through which processes can exchange values before they form a group


def launched() -> bool:
    """Whether torchrun started this process together with others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1


def is_first() -> bool:
    """Whether this process writes files: it is alone, or the first of several."""
    return not launched() or os.environ["RANK"] == "0"


def part_of_batch() -> slice:
    """This process's part of each batch."""
    return slice(int(os.environ["RANK"]), None, int(os.environ["WORLD_SIZE"])) if launched() else slice(None)


def connect() -> None:
    """Connects to the store of all processes, for `may_speak`; to be called before anything can go wrong.

    From then on only the first of several processes prints its progress. It draws progress bars on a terminal only: in
    a file they would be long lines of every state that a bar had.
    """
    global _store
    if launched():
        from torch.distributed import rendezvous  # late: commands of one process need no torch for this

        _store, _, _ = next(rendezvous("env://"))
    if not is_first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8", errors="replace")  # noqa: SIM115
    if not (is_first() and sys.stderr.isatty()):
        tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)


def may_speak() -> bool:
    """True in the first process that asks: only one process prints an error that many see."""
    try:
        return _store is None or _store.add("spoken", 1) == 1
    except RuntimeError:  # the store is gone, and so are the processes that might have printed it
        return True


def before_exit() -> None:
    """Gives the others time to ask, if this failed process, not torchrun, holds the store, as in torch 2.4."""
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
        try:  # an hour: machines with separate caches decode a data set at different speeds
            torch.distributed.init_process_group(backend, store=_store, timeout=timedelta(hours=1), **group)
        except RuntimeError as error:
            raise RunError(
                f"{group['world_size']} processes are to carry out this run.",
                f"They cannot connect: {str(error).splitlines()[0]}",
                "If the machines have several networks, name one: GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0",
            ) from None


def leave() -> None:
    """Destroys the process group, after a run that succeeded."""
    if launched():
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
