"""The flags of prompts: sizes and ablations, by method."""

import argparse

from tools.common.flag_types import number_in, positive_float, whole_number_in


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
