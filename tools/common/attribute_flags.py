"""The flags of methods whose classes are described by sentences: AttrVR (ICLR 2025), DVP (ICML 2025) and RVP."""

import argparse
import os
from collections.abc import Sequence

from errors import UserError, too_few_sentences
from tools.common.args import Parser, add_template_flag
from tools.common.flag_types import positive_int, zero_or_fraction

_OWN = {"attr_vr": ("attributes", "descriptions", "nearest", "alpha"), "ar": ("template",), "vp": ("template",)}
_ATTR_VR = ("descriptive", "distinctive")


def _add_sentence_flags(parser: Parser, files: str) -> None:
    """--attributes and --descriptions."""
    folder = f"folder of your files {files}, see docs/methods.md"
    parser.add_argument("--attributes", type=os.path.abspath, metavar="FOLDER", help=folder)
    number = "sentences of each class, drawn from each file; default 20"
    parser.add_argument("--descriptions", type=positive_int, default=20, help=number)


def add_attribute_flags(parser: Parser, template: str) -> None:
    """--method, AttrVR's sentences, and the --template of its baselines."""
    methods = "attr_vr, or a baseline of the paper with one text prompt a class: ar, vp; default attr_vr"
    parser.add_argument("--method", dest="attr_method", choices=_OWN, default="attr_vr", help=methods)
    _add_sentence_flags(parser, "DATASET_descriptive.json and DATASET_distinctive.json")
    nearest = "how many of them, the nearest to the image, make a class's logit; default 3"
    parser.add_argument("--nearest", type=positive_int, default=3, help=nearest)
    alpha = "what the descriptive sentences count; the distinctive ones count the rest; in [0,1], default 0.5"
    parser.add_argument("--alpha", type=zero_or_fraction, default=0.5, help=alpha)
    add_template_flag(parser, template)
    parser.checks.append(lambda args: _require_fitting(args, parser))


def add_descriptive_flags(parser: Parser) -> None:
    """--attributes and --descriptions of a method that reads the descriptive sentences alone (RVP)."""
    _add_sentence_flags(parser, "DATASET_descriptive.json")
    parser.checks.append(lambda args: _require_folder(args, banks_of(args)))


def add_decoupled_flags(parser: Parser) -> None:
    """The flags of DVP: its sentences, --causes or --clusters, and --nearest."""
    _add_sentence_flags(
        parser, "DATASET_descriptive.json, or with --causes DATASET_cause1.json, DATASET_cause2.json, ..."
    )
    groups = parser.add_mutually_exclusive_group()
    causes = "a prompt for each file of causes, so many of them (DVP-cse); the paper has 3"
    groups.add_argument("--causes", type=positive_int, help=causes)
    clusters = "a prompt for each cluster of the descriptive sentences, so many clusters (DVP-cls); default %(default)s"
    groups.add_argument("--clusters", type=positive_int, default=3, help=clusters)
    nearest = "how many sentences of its class, the nearest to it, a training image counts; default 3"
    parser.add_argument("--nearest", type=positive_int, default=3, help=nearest)
    parser.checks.append(_require_sentences)


def banks_of(args: argparse.Namespace) -> tuple[str, ...]:
    """Which files a method reads, as `data.attributes.read_attributes` takes them: descriptive, or those of causes."""
    causes = getattr(args, "causes", None)
    return tuple(f"cause{number + 1}" for number in range(causes)) if causes else _ATTR_VR[:1]


def _require_sentences(args: argparse.Namespace) -> None:
    """Refuses DVP without sentences, or with fewer of a class than have to count."""
    banks = banks_of(args)
    _require_folder(args, banks)
    there = args.descriptions * len(banks)
    if args.nearest > there:
        raise too_few_sentences(args.nearest, there)


def _require_folder(args: argparse.Namespace, banks: Sequence[str], otherwise: str = "") -> None:
    if args.attributes is None:
        *first, last = (f"{args.dataset}_{bank}.json" for bank in banks)
        raise UserError(
            "This method needs sentences that describe the classes: --attributes FOLDER.",
            "No folder is given.",
            f"Put {' and '.join([', '.join(first), last] if first else [last])} into one, as docs/methods.md"
            f" says{otherwise}.",
        )


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
    if chosen == "attr_vr":
        _require_folder(args, _ATTR_VR, ", or type --method ar")
        if args.nearest > args.descriptions:
            raise too_few_sentences(args.nearest, args.descriptions)
