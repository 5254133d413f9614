"""The flags of prompts: sizes and ablations, by method."""

import argparse

from errors import UserError
from tools.common.args import Parser
from tools.common.flag_types import (
    number_in,
    pixel_distance,
    positive_float,
    positive_int,
    whole_number,
    whole_number_in,
)


def add_evp_flags(parser: argparse.ArgumentParser) -> None:
    """EVP's sizes and ablations (TMLR 2024)."""
    where = "frame around the shrunken image, or on top of it; default pad"
    parser.add_argument("--placement", choices=("pad", "add"), default="pad", help=where)
    norm = "what the gradient is divided by; the default learning rate is for l2, the default"
    parser.add_argument("--gradient-norm", choices=("l2", "l1", "linf", "none"), default="l2", help=norm)
    parser.add_argument("--no-diversity", action="store_true", help="no random crop and flip in training")
    width = "width of the frame, in pixels of an input of 224; default 30"
    parser.add_argument("--prompt-size", type=whole_number_in(1, 111), default=30, help=width)
    side = "side of the image, in pixels of an input of 224; default: what the frame leaves, or 224 for --placement add"
    parser.add_argument("--image-size", type=whole_number_in(1, 224), help=side)


def add_mask_flags(parser: argparse.ArgumentParser) -> None:
    """SMM's mask network (ICML 2024)."""
    patch = "side of the squares with one value of the mask, in pixels; default 8"
    parser.add_argument("--patch-size", type=int, choices=(1, 2, 4, 8, 16, 32), default=8, help=patch)
    channels = "a mask for each colour channel, or one for all; default 3"
    parser.add_argument("--mask-channels", type=int, choices=(3, 1), default=3, help=channels)
    layers = "layers of the mask network; default 5, for timm:vit_... 6"
    parser.add_argument("--mask-layers", type=int, choices=(5, 6), default=5, help=layers)
    rate = "learning rate of the mask network; default: --lr, for timm:vit_... 0.001"
    parser.add_argument("--mask-lr", type=positive_float, help=rate)
    schedule = "whether the mask network's learning rate falls as --lr does; default step, for timm:vit_... constant"
    parser.add_argument("--mask-schedule", choices=("step", "constant"), default="step", help=schedule)


def add_scale_flags(parser: argparse.ArgumentParser) -> None:
    """AutoVP's image size (ICLR 2024)."""
    side = "side of the image at scale 1, in pixels of an input of 224; default 128"
    parser.add_argument("--image-size", type=whole_number_in(1, 224), default=128, help=side)
    scale = "times this, in [0.1, 5]; default 1.5"
    parser.add_argument("--scale", type=number_in(0.1, 5.0), default=1.5, help=scale)
    parser.add_argument("--trainable-scale", action="store_true", help="the scale learns with the prompt")


def add_cluster_flags(parser: Parser) -> None:
    """DAM-VP's clusters and head (CVPR 2023)."""
    clusters = (
        "how many clusters; or distance:D, as many as are at least D apart in the network's features; default 8, or the"
        " paper's distance on its networks (docs/methods.md)"
    )
    parser.add_argument("--clusters", type=cluster_rule, default="8", metavar="N", help=clusters)
    images = "at most so many training images make the clusters; default 1000"
    parser.add_argument("--cluster-images", type=positive_int, default=1000, help=images)
    parser.add_argument("--head", action="store_true", help="a new linear layer learns in place of a map of features")
    parser.add_argument("--head-lr", type=positive_float, default=0.1, help="its learning rate; default 0.1")

    def check(args: argparse.Namespace) -> None:
        if "head_lr" in parser.typed and not args.head:
            asked = f"--head-lr {args.head_lr:g}: the learning rate of --head."
            raise UserError(asked, "There is no --head.", "Add --head, or leave --head-lr out.")

    parser.checks.append(check)


def cluster_rule(text: str) -> str:
    """The type of --clusters."""
    if text.startswith("distance:"):
        positive_float(text.removeprefix("distance:"))
    else:
        positive_int(text)
    return text


def until(rule: str) -> dict[str, float]:
    """--clusters, as `cluster_means` takes it."""
    return {"count": int(rule)} if rule.isdecimal() else {"threshold": float(rule.removeprefix("distance:"))}


def add_margin_flags(parser: argparse.ArgumentParser) -> None:
    """C-AVP's prompts, attack and margins (ICASSP 2023)."""
    width = "width of the frame, in pixels of an input of 224; default 56, a quarter of the side"
    parser.add_argument("--prompt-size", type=whole_number_in(1, 112), default=56, help=width)
    eps = "the most that the attack in training changes a pixel, in [0,1]: a fraction or a decimal; default 8/255"
    parser.add_argument("--eps", type=pixel_distance, default=8 / 255, metavar="EPS", help=eps)
    steps = "steps of the attack, each of a quarter of --eps; 0: no attack; default 10"
    parser.add_argument("--attack-steps", type=whole_number, default=10, help=steps)
    weight = "of the margins in the loss; default 3"
    parser.add_argument("--margin-weight", type=positive_float, default=3.0, help=weight)
    which = "which of the three margins between prompts; default 1 2 3"
    parser.add_argument("--margins", type=int, nargs="*", choices=(1, 2, 3), default=[1, 2, 3], help=which)
