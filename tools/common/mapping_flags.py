"""The flags of label mappings: of one mapping, and of prompts that any mapping may follow."""

import argparse

from algorithms.mapping_rules import ALL_MAPPINGS, MAPPINGS
from errors import UserError
from tools.common.args import Parser, add_clip_flags
from tools.common.flag_types import fraction, positive_float, positive_int
from tools.common.network_names import clip_name


def add_counts_flag(parser: argparse.ArgumentParser) -> None:
    """--mapping-counts, of mappings that follow the counts of predictions."""
    counts = (
        "what an image adds to the counts that make the map: 1 for its most probable source label (the papers),"
        " or all probabilities; default argmax"
    )
    parser.add_argument("--mapping-counts", choices=("argmax", "probabilities"), default="argmax", help=counts)


def add_sources_flag(parser: argparse.ArgumentParser) -> None:
    """--sources, of mappings that give each target several source labels (AutoVP, ICLR 2024)."""
    sources = "source labels of each target, whose logits are averaged; default 1"
    parser.add_argument("--sources", type=positive_int, default=1, help=sources)


def add_unpredicted_flag(parser: argparse.ArgumentParser) -> None:
    """--unpredicted, of mappings by frequency that are made again."""
    unpredicted = (
        "source label of a target that has no count left: the smallest unused one (the papers), or keep: its former"
        " one, if no other target takes that; default smallest"
    )
    parser.add_argument("--unpredicted", choices=("smallest", "keep"), default="smallest", help=unpredicted)


def add_bayesian_flags(parser: argparse.ArgumentParser, plus: bool = False) -> None:
    """--smoothing, and for BLM+ --top-fraction (Cai et al., NeurIPS 2024)."""
    smoothing = "added to the sum of each source label's counts; default 1"
    parser.add_argument("--smoothing", type=positive_float, default=1.0, help=smoothing)
    if plus:
        top = "an image counts its most probable source labels, so many for each target class; in (0,1], default 0.15"
        parser.add_argument("--top-fraction", type=fraction, default=0.15, help=top)


def add_iteration_flags(parser: argparse.ArgumentParser) -> None:
    """--mapping-interval and --mapping-source, of mappings that are made again while the prompt learns."""
    interval = "number of epochs after which the map is made again; default 1"
    parser.add_argument("--mapping-interval", type=positive_int, default=1, help=interval)
    source = "predictions that make the map: of an extra pass, or of the last epoch's training; default pass"
    parser.add_argument("--mapping-source", choices=("pass", "train"), default="pass", help=source)


def add_mapping_flags(parser: Parser, default: str, *more: str, also: tuple[str, ...] = ()) -> None:
    """--mapping and the flags of its mappings. `run.remapping` makes the one that is chosen.

    Args:
        more: other mappings that this script makes, or lets learn.
        also: other names of --mapping.
    """
    names = (*more, *MAPPINGS)
    which = f"label mapping: {', '.join(names)}; default {default}"
    parser.add_argument("--mapping", *also, choices=names, default=default, metavar="NAME", help=which)
    add_counts_flag(parser)
    add_sources_flag(parser)
    add_iteration_flags(parser)
    add_unpredicted_flag(parser)
    parser.checks.append(lambda args: _require_heeded(args, parser))


def _require_heeded(args: argparse.Namespace, parser: Parser) -> None:
    """Refuses a flag that the chosen mapping does not heed, since no run passes over what was typed."""
    heeding: dict[str, list[str]] = {}
    for mapping, rule in ALL_MAPPINGS.items():
        for name in rule.flags:
            heeding.setdefault(name, []).append(mapping)
    for name, mappings in heeding.items():
        if args.mapping not in mappings and getattr(args, name, None) != parser.get_default(name):
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"{flag} {getattr(args, name)}: the mapping {args.mapping} has no such setting.",
                f"These have it: {', '.join(mappings)}.",
                f"Leave out {flag}, or choose another --mapping.",
            )


def add_name_clip_flags(parser: Parser) -> None:
    """--clip-model, --pretrained, --clip-config: the CLIP that compares class names. `args.name_clip` is its name."""
    add_clip_flags(parser, "ViT-B-32-quickgelu", "openai")
    parser.set_defaults(name_clip=clip_name("ViT-B-32-quickgelu", "openai", None))

    def name(args: argparse.Namespace) -> None:
        args.name_clip = clip_name(args.clip_model, args.pretrained, args.clip_config)

    parser.checks.append(name)
