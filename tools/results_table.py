"""Tables of results, from the receipts of runs: rows are data sets, columns are methods, one table a network.

    python tools/results_table.py
    python tools/results_table.py --metric at-best-val --format latex --output table.tex
    python tools/results_table.py --datasets flowers102 --epochs 20 --transpose
    python tools/results_table.py --metric val --methods cnn/ilm_vp --epochs 4
    python tools/results_table.py --receipts receipts.csv
    python tools/results_table.py docs/receipts.csv receipts.csv
    python tools/results_table.py --missing | sh
    python tools/results_table.py --missing --network resnet18 --methods cnn/ilm_vp --datasets dtd --seeds 7 8 9

Finished runs that differ only in the seed (or in flags like --device) are averaged. A column is a method in one
setting. Its head names the flags that differ from the script's defaults. Flags that are the same in all trained columns
stand in the caption. Two numbers differ if they are further apart than twice the standard error of their difference.
The best of a row is bold, and so is what does not differ from it. Runs of different epochs are not compared.

Published numbers stand below one's own, if they are for the same network, the whole data set and the same flags; the
epochs may be others. Notes say where they are from. The notes of csv, --receipts and --missing go to stderr.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import shlex
from itertools import product

import pandas as pd

import cfg
from data import catalog
from errors import UserError
from tools.common.args import Parser
from tools.common.command import run_command
from tools.common.files import write_whole
from tools.common.machine import ROOT
from tools.common.naming import CLIP
from tools.common.shell import from_here
from tools.reporting.formats import FORMATS
from tools.reporting.methods import Column
from tools.reporting.receipt_file import write_receipts
from tools.reporting.selection import add_table_flags, axes, named, read_networks
from tools.reporting.tables import build_table


def main(argv: list[str] | None = None) -> str:
    args = parse(argv)
    groups, notes = read_networks(args)
    if args.receipts:
        finished = [run for runs in groups for run in named(runs, args).run if run.finished]
        text = write_receipts(finished)
        write_whole(args.receipts, lambda file: file.write_text(text, encoding="utf-8", errors="backslashreplace"))
        print("".join(f"{note}\n" for note in notes), end="", file=sys.stderr)
        print(f"{len(finished)} finished runs: {args.receipts}")
        return text
    if args.missing:
        text = "".join(f"{line}\n" for runs in groups for line in missing(runs, args))
    else:
        tables = [build_table(runs, args) for runs in groups]
        notes += [f"{table.network}: {note}" for table in tables if table.runs.empty for note in table.notes]
        tables = [table for table in tables if not table.runs.empty]
        if not tables:
            found = " ".join(notes)
            raise UserError("Finished runs are needed for a table.", found, "See what to type with --missing.")
        text, notes = FORMATS[args.format](tables, notes)
    print("".join(f"{note}\n" for note in notes), end="", file=sys.stderr)
    if args.output:
        write_whole(args.output, lambda file: file.write_text(text, encoding="utf-8", errors="backslashreplace"))
    else:
        print(text, end="")
    return text


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(__file__, __doc__)
    where = "folders of results, or files of --receipts, side by side; default results_path of cfg.py"
    parser.add_argument("results", nargs="*", type=Path, default=[cfg.results_path], help=where)
    add_table_flags(parser, [row.name for row in catalog.DATASETS])
    parser.add_argument("--format", choices=FORMATS, default="markdown", help="default markdown")
    turned = "rows are methods, columns are data sets; of markdown and latex"
    parser.add_argument("--transpose", action="store_true", help=turned)
    commands = "instead of tables, print the commands of the runs that are missing or not finished"
    parser.add_argument("--missing", action="store_true", help=commands)
    receipts = "instead of tables, write the finished runs to this CSV file, one line a run"
    parser.add_argument("--receipts", type=Path, metavar="FILE", help=receipts)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write to this file instead of stdout")
    args = parser.parse_args(argv)
    if args.missing and (len(args.results) > 1 or args.results[0].is_file()):
        found = f"Named are {', '.join(map(str, args.results))}."
        hint = "Give it the folder that runs are written to."
        raise UserError("--missing is for one folder of results.", found, hint)
    return args


# Missing runs -------------------------------------------------------------------------------------------------------


def missing(runs: pd.DataFrame, args: argparse.Namespace) -> list[str]:
    """The commands of a network's runs that are missing or not finished. They write into the same folder of results."""
    begun = [(run.dataset, run.column, run.seed) for run in named(runs, args).run if not run.finished]
    done = {(run.dataset, run.column, run.seed) for run in runs.run if run.finished}
    wanted = dict.fromkeys([*product(*axes(runs, args)), *begun])
    results = args.results[0].resolve()
    where = "" if results == cfg.results_path.resolve() else f"VP_RESULTS_PATH={shlex.quote(str(results))} "
    return [where + command(runs, *run) for run in wanted if run not in done]


def command(runs: pd.DataFrame, dataset: str, column: Column, seed: int) -> str:
    """The command to type in the working directory for a run. It follows another run of its column if there is one.

    Files of a network have absolute paths. The quotes are those of `sh`, which may be given the commands.
    """
    same = sorted(runs.run[runs.column == column], key=lambda run: (run.dataset, run.seed) != (dataset, seed))
    args = (same or list(runs.run))[0].args
    clip = {f"--{name.replace('_', '-')}": args[name] for name in sorted(CLIP) if args.get(name)}
    if "--clip-config" in clip:
        clip.pop("--clip-model", None)  # a command has only one of them
    network = clip or {"--network": args.get("network_source", args["network"])}
    if same:
        typed = same[0].command[2:]
        words = [part for word in typed for part in (word.split("=", 1) if word.startswith("--") else [word])]
        values = {flag: value for flag, value in network.items() if flag in words}
    else:
        words, values = [], network
    for flag, value in {**values, "--dataset": dataset, "--seed": str(seed)}.items():
        if flag in words:
            words[words.index(flag) + 1] = value
        else:
            words += [flag, value]
    return shlex.join(["python", from_here(ROOT / "experiments" / f"{column.method}.py"), *words])


if __name__ == "__main__":
    run_command(main)
