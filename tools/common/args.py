"""The flags that experiments and commands share, each with its unit or range."""

import argparse
import re
import shlex
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import cfg
from errors import UserError
from tools.common.flag_types import (
    auto_or_gigabytes,
    auto_or_whole_number,
    dataset_name,
    device,
    fraction,
    network,
    positive_float,
    positive_int,
    precision,
    seed_number,
    tag_or_file,
    text_template,
    whole_number,
    zero_or_fraction,
)
from tools.common.network_names import clip_name
from tools.common.precision import AUTO_BFLOAT16
from tools.common.settings import stated_values
from tools.common.shell import from_here


class Parser(argparse.ArgumentParser):
    """An argument parser. It raises UserErrors, and stores the command in `command`, so that a user can type it again.

    Args:
        file: the script's `__file__`.
        doc: the script's docstring, shown by --help.
        auto_bfloat16: whether `--precision auto` is bfloat16 on a CPU that has matrix units for it.

    Attributes:
        checks: functions that get the flags when all of them are known. They may raise UserErrors.
        typed: the flags that were typed, of an experiment.
    """

    def __init__(self, file: str, doc: str, auto_bfloat16: bool = False):
        self.file, self.auto_bfloat16 = Path(file).resolve(), auto_bfloat16
        self.checks: list[Callable[[argparse.Namespace], None]] = []
        self.typed: frozenset[str] = frozenset()
        self._replaced: dict[str, Any] = {}  # the script's own defaults, where the table of settings has others
        super().__init__(
            prog=f"python {from_here(self.file)}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse_args(self, argv: list[str] | None = None) -> argparse.Namespace:
        argv = sys.argv[1:] if argv is None else list(argv)
        self.set_defaults(**self._replaced)
        args = super().parse_args(argv)
        if hasattr(args, "method"):
            self.typed = self._typed(argv)
            values = stated_values(args.method, vars(args))
            self._replaced = {name: self.get_default(name) for name in values}
            self.set_defaults(**values)
            args = super().parse_args(argv)
        args.command = shlex.join(["python", from_here(self.file), *(a for a in argv if a != "--fresh")])
        if hasattr(args, "clip_model") and not hasattr(args, "network"):
            args.network = clip_name(args.clip_model, args.pretrained, args.clip_config)
        for check in self.checks:
            check(args)
        return args

    def _typed(self, argv: list[str]) -> frozenset[str]:
        untyped = object()  # argparse sets no default where there is a value
        flags = [action.dest for action in self._actions]
        found = super().parse_args(argv, argparse.Namespace(**dict.fromkeys(flags, untyped)))
        return frozenset(flag for flag in flags if getattr(found, flag) is not untyped)

    def error(self, message: str):
        misspelt = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        nearest = misspelt and get_close_matches(misspelt[1], self._option_string_actions, n=1, cutoff=0.5)
        meant = f"Did you mean {nearest[0]}? " if nearest else ""
        raise UserError(f"{self.prog}: {message}.", "Nothing has been started.", f"{meant}Type: {self.prog} --help")


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    """--device, --precision, --workers, --gpu-cache-fraction; cfg.py has their defaults."""
    which = "auto, cpu, cuda, cuda:1, mps; default %(default)s"
    parser.add_argument("--device", type=device, default=cfg.device, help=which)
    types = "float32, bfloat16, float16, or auto: float16 on CUDA, else float32; default %(default)s"
    parser.add_argument("--precision", type=precision, default=cfg.precision, help=types)
    workers = "processes that decode images where there is no cache, or auto; default %(default)s"
    parser.add_argument("--workers", type=auto_or_whole_number, default=cfg.workers, help=workers)
    gpu = "keep decoded images on the GPU up to this fraction of its free memory, in [0,1]; default %(default)s"
    parser.add_argument("--gpu-cache-fraction", type=zero_or_fraction, default=cfg.gpu_cache_fraction, help=gpu)


def add_memory_flag(parser: argparse.ArgumentParser) -> None:
    """--memory, of commands that compute batches in pieces; cfg.py has its default."""
    memory = "GB that the run may use on the device: larger batches are computed in pieces; auto: half of what is free"
    parser.add_argument("--memory", type=auto_or_gigabytes, default=cfg.memory, help=f"{memory}; default %(default)s")


def add_checkpoint_flags(parser: argparse.ArgumentParser, machine: bool = True) -> None:
    """--checkpoint, the flags for a checkpoint that does not say what it belongs to, and the `machine`'s flags."""
    parser.add_argument("--checkpoint", type=Path, required=True, help="a best.pth or ckpt.pth of any method")
    which = "for a checkpoint of the original ILM-VP repository, which does not name it; or the new path of its weights"
    parser.add_argument("--network", type=network, help=which)
    parser.add_argument("--dataset", type=dataset_name, help="as --network; or another data set with the same classes")
    add_clip_flags(parser, None, None)
    if machine:
        add_machine_flags(parser)


def selection(args: argparse.Namespace) -> dict[str, Any]:
    """The flags that choose training and validation images, as `Dataset.read` takes them."""
    names = ("shots", "train_fraction", "val_fraction", "val_shots", "seed")
    return {name: getattr(args, name) for name in names}


def add_warmup_flag(parser: Parser) -> None:
    """--warmup, of scripts with `step_schedule`."""
    warmup = "epochs of linear warm-up: the k-th has k/WARMUP of the learning rate; default 0, as in the papers"
    parser.add_argument("--warmup", type=whole_number, default=0, help=warmup)
    parser.checks.append(lambda args: check_warmup(args.warmup, args.epoch, "epochs"))


def check_warmup(warmup: int, length: int, unit: str, typed: bool = True) -> None:
    """Refuses (a UserError) a warm-up that the training of `length` steps or epochs does not finish.

    Args:
        typed: whether the user typed --warmup. The default is not refused: a line tells it, so a short trial runs.
    """
    if warmup > length:
        asked = f"--warmup {warmup}: the learning rate rises for so many {unit}."
        found = f"The training has {length} {unit}, all of them with a lower rate than --lr."
        hint = f"Type a larger --epoch, or for example --warmup {length // 10}."
        if typed:
            raise UserError(asked, found, hint)
        print(asked, found, hint)


def check_cuda_graph(args: argparse.Namespace) -> None:
    """Refuses --cuda-graph (a UserError) where there is no CUDA, and beside --plain and --compile."""
    if not args.cuda_graph:
        return
    found = None if args.device.type == "cuda" else f"The device is {args.device}."
    for flag in ("plain", "compile"):
        found = f"--{flag} is asked for, too." if getattr(args, flag) else found
    if found:
        asked = "--cuda-graph records the default path's kernels on CUDA."
        raise UserError(asked, found, "Type one of them: --no-cuda-graph leaves the graphs out.")


def experiment_parser(
    file: str, doc: str, *, lr: float | None, auto_bfloat16: bool = AUTO_BFLOAT16, **defaults: Any
) -> Parser:
    """The flags of every experiment on ImageNet networks. A script adds its own.

    Args:
        file, doc: the script's `__file__` and `__doc__`.
        lr: the default learning rate; None if nothing learns.
        auto_bfloat16: see `Parser`; docs/speed.md has the reasons of the methods for which it is False.
        defaults: `epoch`, `seed`, `batch_size` and `augment`, if they differ from 200, 7, None (the data set's own) and
            "none". `augment=None` has no such flag.
    """
    parser = Parser(file, doc, auto_bfloat16)
    which = "a network of docs/results.md, timm:NAME, or your own: timm:NAME=FILE, local-dir:FOLDER, hf-hub:OWNER/NAME"
    parser.add_argument("--network", type=network, required=True, help=which)
    _add_experiment_flags(parser, lr, **_DEFAULTS | defaults)
    return parser


def clip_parser(file: str, doc: str, *, lr: float | None, **defaults: Any) -> Parser:
    """`experiment_parser` for CLIP: three flags name the model. `args.network` is a short name made of them."""
    parser = Parser(file, doc)
    add_clip_flags(parser, "ViT-B-32-quickgelu", "openai")
    _add_experiment_flags(parser, lr, **_DEFAULTS | defaults)
    return parser


def add_clip_flags(parser: argparse.ArgumentParser, model: str | None, pretrained: str | None) -> None:
    """--clip-model, --pretrained, --clip-config, --preprocess: which CLIP."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--clip-model", default=model, help="a model of open_clip; default %(default)s")
    weights = "its weights: a tag or a file; default %(default)s"
    parser.add_argument("--pretrained", type=tag_or_file, default=pretrained, help=weights)
    own = "a JSON file with the model's architecture, instead of --clip-model; --pretrained is then a file"
    which.add_argument("--clip-config", type=tag_or_file, help=own)
    images = "how the images of a file's weights are prepared: a tag of the model, or MEAN:STD[:squash][:bilinear]"
    parser.add_argument("--preprocess", help=images)


def add_template_flag(parser: argparse.ArgumentParser, usual: str) -> None:
    """--template. Without it the data set's own template is used, or else the `usual` one."""
    template = f"text prompt, {{}} for the class name; default '{usual}', or the data set's own"
    parser.add_argument("--template", type=text_template, help=template)


_DEFAULTS: dict[str, Any] = {"epoch": 200, "seed": 7, "batch_size": None, "augment": "none"}


def _add_experiment_flags(
    parser: Parser, lr: float | None, epoch: int, seed: int, batch_size: int | None, augment: str | None
) -> None:
    name = "a data set of docs/data.md, or your folder's name"
    parser.add_argument("--dataset", type=dataset_name, required=True, help=name)
    drawn = "seed of all random numbers; default %(default)s"
    parser.add_argument("--seed", type=seed_number, default=seed, help=drawn)
    if lr is None:
        parser.set_defaults(epoch=0, shots=None, train_fraction=None, val_fraction=None, val_shots=None)
    else:
        _add_training_flags(parser, lr, epoch)
    if lr is None or augment is None:
        parser.set_defaults(augment="none")
    else:
        random = "what is done to training images after the method's own transforms; default %(default)s"
        parser.add_argument("--augment", choices=("none", "trivial"), default=augment, help=random)
    own = batch_size or "that of the original repository for the data set"
    batch = f"images; default: {own}; docs/methods.md"
    parser.add_argument("--batch-size", type=positive_int, default=batch_size, help=batch)
    plain = "no folding, no shared border, no cache of pixels, no TF32: the slow reference"
    parser.add_argument("--plain", action="store_true", help=plain)
    compiled = "torch.compile for the network; no border is shared then"
    parser.add_argument("--compile", action="store_true", help=compiled)
    border = "compute the border of the prompted images once a batch; default: on the CPU, and with CUDA graphs"
    parser.add_argument("--share-border", action=argparse.BooleanOptionalAction, help=border)
    graph = "record prompt and network as CUDA graphs; default: on CUDA, where the prompt can be recorded"
    parser.add_argument("--cuda-graph", action=argparse.BooleanOptionalAction, help=graph)
    parser.add_argument("--fresh", action="store_true", help="start over, even if this run has a checkpoint")
    add_machine_flags(parser)
    add_memory_flag(parser)
    parser.set_defaults(method=f"{parser.file.parent.name}/{parser.file.stem}")


def _add_training_flags(parser: Parser, lr: float, epoch: int) -> None:
    parser.add_argument("--epoch", type=positive_int, default=epoch, help="epochs to train; default %(default)s")
    parser.add_argument("--lr", type=positive_float, default=lr, help="learning rate at the start; default %(default)s")
    fewer = parser.add_mutually_exclusive_group()
    fewer.add_argument("--shots", type=positive_int, help="train on this many images of each class")
    fewer.add_argument("--train-fraction", type=fraction, help="train on this fraction of each class, in (0,1]")
    held = "use this fraction of the training images for validation, if there is no such split; in (0,1]"
    parser.add_argument("--val-fraction", type=fraction, help=held)
    kept = "validate on this many images of each class; CoOp's protocol: as many as --shots, at most 4; default all"
    parser.add_argument("--val-shots", type=positive_int, help=kept)
