"""Why a run had to stop: the messages for errors that torch, the user's keyboard or the training itself raise."""

import argparse

import torch

from algorithms.training import NonFiniteLoss
from errors import Interrupted, RunError, UserError
from tools.common.processes import launched
from tools.common.shell import as_typed


def explain(error: BaseException | None, args: argparse.Namespace, kept: str) -> UserError | None:
    """The message for an error that is no UserError; None for an error in the code, which keeps its traceback.

    Args:
        kept: a sentence on what is kept of the run.
    """
    stopped = f"{args.method} had to stop"
    if isinstance(error, KeyboardInterrupt):
        how = " (with torchrun, as before)" if launched() else ""
        return Interrupted("Interrupted.", kept, f"To continue: {as_typed(args.command)}{how}")
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return RunError(
            f"{stopped}: out of memory on {args.device}.", kept, "Try a lower --memory, or a lower --batch-size."
        )
    if args.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        reason = " ".join(str(error).split())[:200]
        return RunError(f"--compile: torch.compile failed ({reason}).", kept, "Run it without --compile.")
    if isinstance(error, ValueError) and "Expected more than 1 value per channel" in str(error):  # torch's batch norm
        asked = f"{args.network}: its batch normalisation trains on two images or more."
        return UserError(asked, "A training batch has one image.", "Take more training images, or --batch-size 2.")
    if isinstance(error, NonFiniteLoss):
        lower = f"Try a lower --lr than {args.lr:g}, or --precision float32."
        return RunError(f"{stopped}: {error}.", kept, lower)
    return None
