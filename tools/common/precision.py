"""Which precision a run or a command computes in, where the flag says `auto`."""

import argparse
from typing import Any

from errors import UserError
from tools.common.machine import multiplies_bfloat16

# Whether `--precision auto` is bfloat16 on a CPU with matrix units for it. False: the gradient of efficientnet_lite0
# differs too much from that of float32 (docs/speed.md). A method's script may say False for itself.
AUTO_BFLOAT16 = False


def resolve_precision(precision: str, device, auto_bfloat16: bool = False) -> str:
    """The precision for a torch.device. `auto` is float16 on CUDA, and float32 elsewhere.

    Args:
        auto_bfloat16: whether `auto` is bfloat16 on a CPU that multiplies in it: the method, or the checkpoint's run,
            computes well in it.

    Raises:
        UserError: float16 on a device where its gradients cannot be scaled.
    """
    if precision == "auto":
        on_cpu = "bfloat16" if auto_bfloat16 and device.type == "cpu" and multiplies_bfloat16() else "float32"
        return "float16" if device.type == "cuda" else on_cpu
    if precision == "float16" and device.type != "cuda":
        raise UserError(
            "--precision float16: its gradients are scaled on CUDA only.",
            f"The device is {device}.",
            "Type --precision bfloat16 or --precision float32.",
        )
    return precision


def checkpoint_precision(args: argparse.Namespace, setup: dict[str, Any]) -> str:
    """`resolve_precision` for a checkpoint's setup: on a CPU `auto` is bfloat16 if its run computed in it."""
    return resolve_precision(args.precision, args.device, setup.get("precision") == "bfloat16")
