"""The flags of AReS (CVPR 2026): which service is asked, and how the local network learns its answers."""

import argparse

from errors import UserError
from tools.common.args import Parser, add_clip_flags, add_template_flag
from tools.common.flag_types import network, positive_float, positive_int, zero_or_fraction
from tools.common.network_names import clip_name

_CLIP = ("ViT-B-16-quickgelu", "openai")  # the paper's


def add_priming_flags(parser: Parser) -> None:
    """--priming-epoch, --priming-lr, --second-stage-data, --fallback."""
    epochs = "epochs in which the local head learns the service's answers; default 100"
    parser.add_argument("--priming-epoch", type=positive_int, default=100, metavar="N", help=epochs)
    rate = "learning rate of that head; default 0.001"
    parser.add_argument("--priming-lr", type=positive_float, default=0.001, metavar="LR", help=rate)
    second = (
        "training images of the second stage: the same as were asked, or full: also those that --shots and"
        " --train-fraction leave out, as the released code; default same"
    )
    parser.add_argument("--second-stage-data", choices=("same", "full"), default="same", help=second)
    fallback = (
        "AReS-MS: if the local network, once it has learned the answers, is less accurate than the service by more than"
        " TOLERANCE in [0,1] (without a value: 0), the run ends with the service itself"
    )
    parser.add_argument("--fallback", type=zero_or_fraction, nargs="?", const=0.0, metavar="TOLERANCE", help=fallback)
    parser.checks.append(_require_fewer)


def add_service_flag(parser: Parser) -> None:
    which = "the network that only answers: as --network, or the address of a service, https://... (docs/black_box.md)"
    parser.add_argument("--service", type=network, required=True, help=which)


def add_clip_service_flags(parser: Parser, template: str) -> None:
    """--clip-model, --pretrained, --clip-config, --preprocess, --template. `args.service` is the CLIP's name."""
    add_clip_flags(parser, *_CLIP)
    add_template_flag(parser, template)
    parser.set_defaults(service=clip_name(*_CLIP, None))

    def name(args: argparse.Namespace) -> None:
        args.service = clip_name(args.clip_model, args.pretrained, args.clip_config)

    parser.checks.append(name)


def _require_fewer(args: argparse.Namespace) -> None:
    if args.second_stage_data == "full" and not (args.shots or args.train_fraction):
        asked = "--second-stage-data full: the second stage sees training images that the first does not."
        raise UserError(asked, "All training images are asked.", "Leave it out, or add --shots or --train-fraction.")
