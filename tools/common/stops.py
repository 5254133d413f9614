"""Why a run had to stop, in words that help."""

import argparse

import torch

from algorithms.training import NonFiniteLoss
from errors import Interrupted, RunError, UserError
from tools.common.processes import launched


def explain(error: BaseException, args: argparse.Namespace, kept: str) -> UserError | None:
    """The message for an error that is no UserError itself; None for a mistake in the code, which keeps its traceback.

    Args:
        kept: what is left of the run.
    """
    stopped = f"{args.method} had to stop"
    if isinstance(error, KeyboardInterrupt):
        how = " (or with torchrun, as before)" if launched() else ""
        return Interrupted("Interrupted.", kept, f"To continue: {args.command}{how}")
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return RunError(f"{stopped}: out of memory on {args.device}.", kept, "Try a lower --batch-size.")
    if args.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        reason = " ".join(str(error).split())[:200]
        return RunError(f"--compile: torch.compile failed ({reason}).", kept, "Run it without --compile.")
    if isinstance(error, NonFiniteLoss):
        lower = f"Try a lower --lr than {args.lr:g}, or --precision float32."
        return RunError(f"{stopped}: {error}.", kept, lower)
    return None
