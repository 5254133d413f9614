"""The flags that experiments and commands share, each with its unit or range."""

import argparse
import os
import shlex
import sys
from pathlib import Path

import torch
from torchvision.datasets.utils import calculate_md5

import cfg
from errors import UserError
from tools.common.flag_types import (
    auto_or_whole_number,
    device,
    fraction,
    positive_float,
    positive_int,
    precision,
    scaled,
    seed_number,
    share,
    tag_or_file,
    text_template,
    whole_number_in,
)


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
        if hasattr(args, "clip_model") and not hasattr(args, "network"):
            args.network = clip_name(args.clip_model, args.pretrained, args.clip_config)
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
    workers = "processes that decode images where there is no cache, or auto; default %(default)s"
    parser.add_argument("--workers", type=auto_or_whole_number, default=cfg.workers, help=workers)
    gpu = "decoded images stay on the GPU up to this share of its free memory, in [0,1]; default %(default)s"
    parser.add_argument("--gpu-cache-fraction", type=share, default=cfg.gpu_cache_fraction, help=gpu)


def add_checkpoint_flags(parser: argparse.ArgumentParser) -> None:
    """--checkpoint, what it belongs to where it does not say so itself, and the machine's flags."""
    parser.add_argument("--checkpoint", type=Path, required=True, help="a best.pth or ckpt.pth of any method")
    parser.add_argument("--network", help="for a checkpoint of the original ILM-VP repository, which does not name it")
    parser.add_argument("--dataset", help="likewise; or another data set with the same classes")
    add_clip_flags(parser, None, None)
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


def experiment_parser(
    file: str, doc: str, *, lr: float | None, epoch: int = 200, seed: int = 7, batch_size: int | None = None
) -> Parser:
    """The flags of every experiment on ImageNet networks; a script adds its own and calls `parse_args(argv)`.

    The namespace also holds `method` (folder/script) and `command` (to be typed again).

    Args:
        lr: the learning rate; None where nothing learns.
        epoch, seed, batch_size: defaults; a batch_size of None is the data set's own.
    """
    parser = Parser(file, doc)
    parser.add_argument("--network", required=True, help="a row of README's table of networks, or timm:NAME")
    _add_experiment_flags(parser, lr, epoch, seed, batch_size)
    return parser


def clip_parser(file: str, doc: str, **defaults) -> Parser:
    """`experiment_parser` for CLIP: three flags name the model; the namespace's `network` is their short form."""
    parser = Parser(file, doc)
    add_clip_flags(parser, "ViT-B-32-quickgelu", "openai")
    _add_experiment_flags(parser, **{"epoch": 200, "seed": 7, "batch_size": None} | defaults)
    return parser


def add_clip_flags(parser: argparse.ArgumentParser, model: str | None, pretrained: str | None) -> None:
    """--clip-model, --pretrained, --clip-config: which CLIP."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--clip-model", default=model, help="a model of open_clip; default %(default)s")
    parser.add_argument(
        "--pretrained", type=tag_or_file, default=pretrained, help="its weights: a tag or a file; default %(default)s"
    )
    own = "a JSON file with the model's architecture, instead of --clip-model; --pretrained is then a file"
    which.add_argument("--clip-config", type=tag_or_file, help=own)


def clip_name(model: str, pretrained: str, config: str | None) -> str:
    """What folders and receipts call a CLIP; a file's name is followed by the start of its md5, for what is in it."""
    architecture = Path(config).stem if config else model
    if not os.path.isfile(pretrained):
        return f"{architecture}-{pretrained}"
    weights = Path(pretrained).stem.removeprefix(architecture).strip("-")
    return "-".join(filter(None, (architecture, weights, calculate_md5(pretrained)[:6])))


def add_template_flag(parser: argparse.ArgumentParser, usual: str) -> None:
    """--template; where it is not given, the data set's own or the `usual` one holds."""
    template = f"text prompt, {{}} for the class name; default '{usual}', or the data set's own"
    parser.add_argument("--template", type=text_template, help=template)


def add_mapping_flags(parser: argparse.ArgumentParser) -> None:
    """--mapping-interval and --mapping-source, of iterative label mapping."""
    parser.add_argument(
        "--mapping-interval", type=positive_int, default=1, help="re-map every so many epochs; default 1"
    )
    source = "predictions the map is made from: of a pass of its own, or of the epoch's training before; default pass"
    parser.add_argument("--mapping-source", choices=("pass", "train"), default="pass", help=source)


def add_evp_flags(parser: argparse.ArgumentParser) -> None:
    """EVP's sizes and ablations (TMLR 2024)."""
    parser.add_argument(
        "--placement", choices=("pad", "add"), default="pad", help="frame around the shrunken image, or on top of it"
    )
    norm = "what the gradient is divided by; default l2, whose learning rate the default is"
    parser.add_argument("--gradient-norm", choices=("l2", "l1", "linf", "none"), default="l2", help=norm)
    parser.add_argument("--no-diversity", action="store_true", help="no random crop and flip in training")
    parser.add_argument(
        "--prompt-size",
        type=whole_number_in(1, 111),
        default=30,
        help="width of the frame, in pixels of an input of 224; default 30",
    )
    size = (
        "side of the image, in pixels of an input of 224; default: what the frame leaves, or with --placement add all"
    )
    parser.add_argument("--image-size", type=whole_number_in(1, 224), help=size)


def evp_geometry(args: argparse.Namespace, canvas_size: int) -> tuple[int, int]:
    """Side of EVP's image and width of its frame, in pixels of a network's input of `canvas_size`.

    Raises:
        UserError: the frame leaves no image.
    """
    width = scaled(args.prompt_size, canvas_size)
    if args.image_size:
        margin, odd = divmod(224 - args.image_size, 2)
        size = canvas_size - 2 * round(margin * canvas_size / 224) - odd
    else:
        size = canvas_size if args.placement == "add" else canvas_size - 2 * width
    if size < 1:
        raise UserError(
            f"--prompt-size {args.prompt_size} --image-size {args.image_size}: they are for an input of 224 pixels.",
            f"In this model's {canvas_size} they leave no pixel for the image.",
            "Choose a smaller --prompt-size or a larger --image-size.",
        )
    return size, width


def _add_experiment_flags(parser: Parser, lr: float | None, epoch: int, seed: int, batch_size: int | None) -> None:
    parser.add_argument("--dataset", required=True, help="a row of README's table of data sets, or your folder's name")
    parser.add_argument(
        "--seed", type=seed_number, default=seed, help="of everything that is drawn at random; default %(default)s"
    )
    if lr is None:
        parser.set_defaults(epoch=0, shots=None, train_fraction=None, val_fraction=None)
    else:
        _add_training_flags(parser, lr, epoch)
    own = batch_size or "the original's for the data set"
    parser.add_argument("--batch-size", type=positive_int, default=batch_size, help=f"images; default: {own}")
    plain = "no folding, no shared border, no cache of pixels: the slow reference"
    parser.add_argument("--plain", action="store_true", help=plain)
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile for the network; its border is not shared"
    )
    parser.add_argument("--fresh", action="store_true", help="start over, even if this run has a checkpoint")
    add_machine_flags(parser)
    parser.set_defaults(method=f"{parser.file.parent.name}/{parser.file.stem}")


def _add_training_flags(parser: Parser, lr: float, epoch: int) -> None:
    parser.add_argument("--epoch", type=positive_int, default=epoch, help="epochs to train; default %(default)s")
    parser.add_argument("--lr", type=positive_float, default=lr, help="learning rate at the start; default %(default)s")
    fewer = parser.add_mutually_exclusive_group()
    fewer.add_argument("--shots", type=positive_int, help="train on this many images a class")
    fewer.add_argument("--train-fraction", type=fraction, help="train on this share of each class, in (0,1]")
    parser.add_argument(
        "--val-fraction", type=fraction, help="share of train cut off for validation where there is no such split"
    )
