"""The flags of AttrVR (ICLR 2025)."""

import argparse
import os

from errors import UserError
from tools.common.args import Parser, add_template_flag
from tools.common.flag_types import positive_int, zero_or_fraction

_OWN = {"attr_vr": ("attributes", "descriptions", "nearest", "alpha"), "ar": ("template",), "vp": ("template",)}


def add_attribute_flags(parser: Parser, template: str) -> None:
    """--method, AttrVR's sentences, and the --template of its baselines."""
    methods = "attr_vr, or a baseline of the paper with one text prompt a class: ar, vp; default attr_vr"
    parser.add_argument("--method", dest="attr_method", choices=_OWN, default="attr_vr", help=methods)
    folder = "folder of your files DATASET_descriptive.json and DATASET_distinctive.json, see docs/methods.md"
    parser.add_argument("--attributes", type=os.path.abspath, metavar="FOLDER", help=folder)
    number = "sentences of each class, drawn from each file; default 20"
    parser.add_argument("--descriptions", type=positive_int, default=20, help=number)
    nearest = "how many of them, the nearest to the image, make a class's logit; default 3"
    parser.add_argument("--nearest", type=positive_int, default=3, help=nearest)
    alpha = "what the descriptive sentences count; the distinctive ones count the rest; in [0,1], default 0.5"
    parser.add_argument("--alpha", type=zero_or_fraction, default=0.5, help=alpha)
    add_template_flag(parser, template)
    parser.checks.append(lambda args: _require_fitting(args, parser))


def _require_fitting(args: argparse.Namespace, parser: Parser) -> None:
    """Refuses flags that the chosen method does not heed, and AttrVR without sentences."""
    chosen = args.attr_method
    for name in sorted({name for names in _OWN.values() for name in names} - set(_OWN[chosen])):
        if getattr(args, name) != parser.get_default(name):
            others = ", ".join(method for method, names in _OWN.items() if name in names)
            raise UserError(
                f"--{name} {getattr(args, name)}: the method {chosen} has no such setting.",
                f"These have it: {others}.",
                f"Leave out --{name}, or choose another --method.",
            )
    if chosen == "attr_vr" and args.attributes is None:
        raise UserError(
            "AttrVR needs sentences that describe the classes: --attributes FOLDER.",
            "No folder is given.",
            f"Put {args.dataset}_descriptive.json and {args.dataset}_distinctive.json into one, as docs/methods.md"
            " says, or type --method ar.",
        )
