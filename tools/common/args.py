"""The flags that experiments and commands share, each with its unit or range."""

import argparse
import os
import shlex
import sys
from pathlib import Path

import torch

import cfg
from errors import UserError


def positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 is needed, not {text!r}")
    return int(text)


def whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number from 0 is needed, not {text!r}")
    return int(text)


def seed(text: str) -> int:
    if whole_number(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"a whole number below 2^63 is needed, not {text}")
    return int(text)


def positive_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 is needed, not {text!r}")
    return value


def fraction(text: str) -> float:
    if positive_float(text) > 1:
        raise argparse.ArgumentTypeError(f"a share above 0 and at most 1 is needed, not {text!r}")
    return float(text)


def device(text: str) -> torch.device:
    """`auto` is CUDA where there is one; a device that is not there is refused."""
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(text)
        torch.zeros(1, device=chosen).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"{text!r} is not to be had here ({reason}); try cpu") from None
    return chosen


def precision(text: str) -> str:
    if text not in ("auto", "float32", "bfloat16", "float16"):
        raise argparse.ArgumentTypeError(f"auto, float32, bfloat16 or float16 is needed, not {text!r}")
    return text


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors, and which keeps the command to be typed again.

    Args:
        file: the script's `__file__`.
        doc: the script's docstring, shown by --help.
    """

    def __init__(self, file: str, doc: str):
        self.file = Path(file).resolve()
        super().__init__(
            prog=f"python {os.path.relpath(self.file)}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse_args(self, argv: list[str] | None = None) -> argparse.Namespace:
        argv = sys.argv[1:] if argv is None else list(argv)
        args = super().parse_args(argv)
        args.command = shlex.join(["python", os.path.relpath(self.file), *(a for a in argv if a != "--fresh")])
        return args

    def error(self, message: str):
        raise UserError(f"{self.prog}: {message}.", "Nothing has been started.", f"Type: {self.prog} --help")


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    """--device, --precision, --workers; their defaults are cfg.py's."""
    parser.add_argument(
        "--device", type=device, default=cfg.device, help="auto, cpu, cuda, cuda:1, mps; default %(default)s"
    )
    parser.add_argument(
        "--precision",
        type=precision,
        default=cfg.precision,
        help="float32, bfloat16, float16, or auto: float16 on CUDA, float32 elsewhere; default %(default)s",
    )
    workers = "processes that decode images where there is no cache; default %(default)s"
    parser.add_argument("--workers", type=whole_number, default=cfg.workers, help=workers)


def add_checkpoint_flags(parser: argparse.ArgumentParser) -> None:
    """--checkpoint, what it belongs to where it does not say so itself, and the machine's flags."""
    parser.add_argument("--checkpoint", type=Path, required=True, help="a best.pth or ckpt.pth of any method")
    parser.add_argument("--network", help="for a checkpoint of the original ILM-VP repository, which does not name it")
    parser.add_argument("--dataset", help="likewise; or another data set with the same classes")
    add_machine_flags(parser)


def resolve_precision(precision: str, device: torch.device) -> str:
    """`auto` made definite.

    Raises:
        UserError: float16 asked for where its gradients cannot be scaled.
    """
    if precision == "auto":
        return "float16" if device.type == "cuda" else "float32"
    if precision == "float16" and device.type != "cuda":
        raise UserError(
            "--precision float16: its gradients are scaled on CUDA only.",
            f"The device is {device}.",
            "Type --precision bfloat16 or --precision float32.",
        )
    return precision


def experiment_parser(file: str, doc: str, *, lr: float) -> Parser:
    """The flags of every experiment; a script adds its own and calls `parse_args(argv)`.

    The namespace also holds `method` (folder/script) and `command` (to be typed again).
    """
    parser = Parser(file, doc)
    parser.add_argument("--network", required=True, help="a row of README's table of networks, or timm:NAME")
    parser.add_argument("--dataset", required=True, help="a row of README's table of data sets, or your folder's name")
    parser.add_argument(
        "--seed", type=seed, default=7, help="of everything that is drawn at random; default %(default)s"
    )
    parser.add_argument("--epoch", type=positive_int, default=200, help="epochs to train; default %(default)s")
    parser.add_argument("--lr", type=positive_float, default=lr, help="learning rate at the start; default %(default)s")
    parser.add_argument("--batch-size", type=positive_int, help="images; default: the original's for the data set")
    fewer = parser.add_mutually_exclusive_group()
    fewer.add_argument("--shots", type=positive_int, help="train on this many images a class")
    fewer.add_argument("--train-fraction", type=fraction, help="train on this share of each class, in (0,1]")
    parser.add_argument(
        "--val-fraction", type=fraction, help="share of train cut off for validation where there is no such split"
    )
    parser.add_argument("--plain", action="store_true", help="no folding, no cache of pixels: the slow reference")
    parser.add_argument("--fresh", action="store_true", help="start over, even if this run has a checkpoint")
    add_machine_flags(parser)
    parser.set_defaults(method=f"{parser.file.parent.name}/{parser.file.stem}")
    return parser


# What says where and how a run is carried out, not which run it is.
MACHINE = ("device", "workers", "fresh", "command", "method")


def run_name(args: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """A readable folder name: network, data set, seed and epochs always, other flags where they differ."""
    parts = [args.network, args.dataset, f"seed{args.seed}", f"epoch{args.epoch}"]
    for name, value in vars(args).items():
        if name not in (*MACHINE, "network", "dataset", "seed", "epoch") and value != parser.get_default(name):
            parts.append(name.replace("_", "-") + ("" if value is True else str(value)))
    return "_".join(parts).replace("/", "-").replace(":", "-")
