"""The flags of methods that train on a network that only answers."""

import argparse

from errors import UserError
from tools.common.args import Parser
from tools.common.flag_types import fraction, positive_float, positive_int, zero_or_fraction

_BLACK_BOX = ("budget", "budget_images")
_SPSA = ("momentum", "alpha", "gamma", "c", "draws")


def add_budget_flags(parser: Parser, passes: int = 20) -> None:
    """--budget and --budget-images; and --passes, since an epoch of few images would be tested too often."""
    calls = "questions that training and mappings may ask, a batch of images each; training ends there; default any"
    parser.add_argument("--budget", type=positive_int, metavar="CALLS", help=calls)
    images = "images that training and mappings may ask for; training ends there; default any number"
    parser.add_argument("--budget-images", type=positive_int, metavar="N", help=images)
    often = "passes over the training images in an epoch, before the test; default %(default)s"
    parser.add_argument("--passes", type=positive_int, default=passes, help=often)


def add_spsa_flags(parser: Parser, momentum: float = 0.9) -> None:
    """The constants of `SPSA_GC` beside --lr, its a: BlackVIP's (CVPR 2023)."""
    kept = "of the gradient correction, in [0,1]; default %(default)s"
    parser.add_argument("--momentum", type=zero_or_fraction, default=momentum, help=kept)
    step = "the learning rate of step k is lr / (k + 1)^alpha; default %(default)s"
    parser.add_argument("--alpha", type=positive_float, default=0.4, help=step)
    moved = "values are moved by up to c / k^gamma in step k; default %(default)s"
    parser.add_argument("--c", type=positive_float, default=0.01, help=moved)
    parser.add_argument("--gamma", type=positive_float, default=0.1, help="see --c; default %(default)s")
    draws = "perturbations a step, each of two questions; default %(default)s"
    parser.add_argument("--draws", type=positive_int, default=5, help=draws)


def add_black_box_flag(parser: Parser, momentum: float) -> None:
    """--black-box, of a method that trains by gradients without it, and the flags that it needs."""
    hidden = "use no gradient: train by questions, with SPSA-GC (BlackVIP, CVPR 2023)"
    parser.add_argument("--black-box", action="store_true", help=hidden)
    add_budget_flags(parser, passes=1)
    add_spsa_flags(parser, momentum)
    parser.checks.append(lambda args: _require_black_box(args, parser))


def _require_black_box(args: argparse.Namespace, parser: Parser) -> None:
    """Refuses flags that training by gradients does not heed, since no run passes over what was typed."""
    for name in () if args.black_box else (*_BLACK_BOX, *_SPSA):
        if getattr(args, name) != parser.get_default(name):
            flag = f"--{name.replace('_', '-')}"
            asked = f"{flag} {getattr(args, name)}: training by gradients has no such setting."
            raise UserError(asked, "--black-box is not given.", f"Leave out {flag}, or add --black-box.")


def add_bar_flags(parser: Parser) -> None:
    """The constants of BAR (ICML 2020) beside --lr, with the values of BlackVIP's code."""
    least = "learning rate at the end; default %(default)s"
    parser.add_argument("--least-lr", type=positive_float, default=0.1, help=least)
    size = "side of the image in the middle, in pixels of an input of 224; default %(default)s"
    parser.add_argument("--image-size", type=positive_int, default=194, help=size)
    beta = "how far a random direction goes, in (0,1]; default %(default)s"
    parser.add_argument("--beta", type=fraction, default=0.01, help=beta)
    draws = "random directions a step: it asks once more than that; default %(default)s"
    parser.add_argument("--draws", type=positive_int, default=5, help=draws)
    add_budget_flags(parser)
    parser.checks.append(_require_falling)


def _require_falling(args: argparse.Namespace) -> None:
    """Refuses a learning rate that would rise: BAR's falls from --lr to --least-lr."""
    if args.lr < args.least_lr:
        asked = f"--lr {args.lr:g} --least-lr {args.least_lr:g}: the learning rate falls from the first to the second."
        found = f"{args.lr:g} is below {args.least_lr:g}."
        raise UserError(asked, found, f"Type for example --least-lr {args.lr / 100:g}.")
