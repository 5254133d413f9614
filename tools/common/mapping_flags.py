"""The flags of prompts that any label mapping may follow."""

import argparse

from algorithms.mapping_rules import ALL_MAPPINGS, MAPPINGS
from errors import UserError
from tools.common.args import (
    Parser,
    add_clip_flags,
    add_counts_flag,
    add_iteration_flags,
    add_sources_flag,
    clip_name,
)


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
