"""Tables of results, from the receipts that runs leave: rows are data sets, columns methods, one table a network.

    python tools/results_table.py
    python tools/results_table.py --metric at-best-val --format latex --output table.tex
    python tools/results_table.py --missing | sh
    python tools/results_table.py --missing --network resnet18 --methods cnn/ilm_vp --datasets dtd --seeds 7 8 9

Finished runs are averaged over seeds where all else is equal (but --device and the like): a column is a method in one
setting, and its head names the flags that differ from the script's defaults; what all trained columns share stands in
the caption. Bold is the best of a row, with those that print the same. Below stand the differences that the papers
headline, where both sides were run in one setting on the paper's network. csv has its notes on stderr, as --missing.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.common.command import run_command  # first, for Ctrl-C during the imports

# isort: split

import argparse
import os
import shlex
from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from statistics import fmean

import cfg
from data import catalog
from errors import UserError, unknown_name
from tools.common.args import Parser
from tools.common.files import write_whole
from tools.common.flag_types import seed_number
from tools.common.machine import ROOT
from tools.common.naming import CLIP, MACHINE, PLACE
from tools.common.results import METHODS, METRICS, Column, Receipt, read_receipts
from tools.common.tables import FORMATS, Table


@dataclass(frozen=True)
class Published:
    """A paper's headline: `points`, in percent, that `method` has over `baseline`, the mean over `datasets`."""

    network: str
    method: str
    baseline: str | None
    datasets: tuple[str, ...]
    points: float
    source: str


_CLIP, _ILM, _EVP = "ViT-B-32-quickgelu-openai", "Chen et al., CVPR 2023, abstract", "Wu et al., TMLR 2024, abstract"
_12 = tuple("cifar100 cifar10 flowers102 food101 eurosat sun397 ucf101 svhn oxfordpets dtd resisc45 clevr".split())
PUBLISHED = (
    Published("resnet18", "cnn/ilm_vp", "cnn/flm_vp", ("flowers102",), 7.9, _ILM),
    Published("resnet18", "cnn/ilm_vp", "cnn/flm_vp", ("cifar100",), 6.7, _ILM),
    Published(_CLIP, "clip/ilm_tp_vp", "clip/single_tp_vp", ("flowers102",), 13.7, _ILM),
    Published(_CLIP, "clip/ilm_tp_vp", "clip/single_tp_vp", ("dtd",), 7.1, _ILM),
    Published(_CLIP, "clip/evp", None, _12, 82.8, _EVP),
    Published(_CLIP, "clip/evp", "clip/vp", _12, 5.6, _EVP),
    Published(_CLIP, "clip/evp", "clip/linear_probing", _12, 2.1, _EVP),
)


def main(argv: list[str] | None = None) -> str:
    args = parse(argv)
    receipts, notes = read_receipts(args.results)
    networks = sorted({run.network for run in receipts})
    if args.network and args.network not in networks:
        raise unknown_name("--network", args.network, networks)
    groups = [[run for run in receipts if run.network == name] for name in networks if args.network in (None, name)]
    folders = {run.column.folder for runs in groups for run in runs}
    unknown = [method for method in args.methods or () if Column(method).folder not in folders]
    notes += [f"Left out, {method}: none of its folder was run, so its network is not known." for method in unknown]
    if args.missing:
        text = "".join(f"{line}\n" for runs in groups for line in missing(runs, args))
    else:
        tables = [build_table(runs, args) for runs in groups]
        notes += [f"{table.network}: {note}" for table in tables if not table.columns for note in table.notes]
        tables = [table for table in tables if table.columns]
        if not tables:
            found = " ".join(notes)
            raise UserError("Finished runs are needed for a table.", found, "See what to type with --missing.")
        text, notes = FORMATS[args.format](tables, notes)
    print("".join(f"{note}\n" for note in notes), end="", file=sys.stderr)
    if args.output:
        write_whole(args.output, lambda file: file.write_text(text, encoding="utf-8"))
    else:
        print(text, end="")
    return text


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(__file__, __doc__)
    where = "the folder of results; default results_path of cfg.py"
    parser.add_argument("results", nargs="?", type=Path, default=cfg.results_path, help=where)
    parser.add_argument("--metric", choices=METRICS, default="last", help="test accuracy of which epoch; default last")
    parser.add_argument("--format", choices=FORMATS, default="markdown", help="default markdown")
    parser.add_argument("--network", metavar="NAME", help="this network alone, named as its runs' folders begin")
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="these rows; default all that were run")
    scripts = [f"{file.parent.name}/{file.stem}" for file in sorted(ROOT.glob("experiments/*/*.py"))]
    methods = "these columns, cnn/ilm_vp for example; default all that were run"
    parser.add_argument("--methods", nargs="+", choices=scripts, metavar="FOLDER/SCRIPT", help=methods)
    parser.add_argument("--seeds", nargs="+", type=seed_number, metavar="N", help="default all that were run")
    commands = "no tables, but the commands of their runs that are not there or not finished"
    parser.add_argument("--missing", action="store_true", help=commands)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write to this file instead of stdout")
    return parser.parse_args(argv)


# Tables -------------------------------------------------------------------------------------------------------------


def axes(runs: list[Receipt], args: argparse.Namespace) -> tuple[list[str], list[Column], list[int]]:
    """A network's data sets, columns and seeds: those that were named, else those of its finished runs."""
    finished, folders = [run for run in runs if run.finished], {run.column.folder for run in runs}
    columns = {run.column for run in finished if not args.methods or run.column.method in args.methods}
    without = {Column(method) for method in set(args.methods or ()) - {column.method for column in columns}}
    columns |= {column for column in without if column.folder in folders}
    names = [row.name for row in catalog.DATASETS]
    datasets = args.datasets or sorted({run.dataset for run in finished}, key=lambda name: rank(name, names))
    columns = sorted(columns, key=lambda column: (rank(column.method, list(METHODS)), column.setting))
    return list(dict.fromkeys(datasets)), columns, args.seeds or sorted({run.seed for run in finished})


def rank(name: str, known: list[str]) -> tuple[int, str]:
    """Sorts names as `known` has them, and the others behind."""
    return [*known, name].index(name), name


def is_named(run: Receipt, args: argparse.Namespace) -> bool:
    """Whether a run's data set, method and seed are among those that were named; where none were, all are."""
    lists = (args.datasets, run.dataset), (args.methods, run.column.method), (args.seeds, run.seed)
    return all(not names or name in names for names, name in lists)


def build_table(runs: list[Receipt], args: argparse.Namespace) -> Table:
    """The table of one network's runs; a note tells what is not in it, another what a paper found."""
    datasets, columns, _ = axes(runs, args)
    chosen = [run for run in runs if run.finished and is_named(run, args)]
    largest = {run.dataset: run.size for run in sorted(chosen, key=lambda run: run.size)}

    def row(run: Receipt) -> str:  # smaller data sets of the same name have rows of their own
        whole = run.size == largest[run.dataset]
        return run.dataset if whole else "{} ({} classes, {} test images)".format(run.dataset, *run.size)

    found: dict[tuple[str, Column], dict[int, Receipt]] = defaultdict(dict)
    for run in chosen:
        found[row(run), run.column].setdefault(run.seed, run)
    rows = [each for name in datasets for each in sorted({row(run) for run in chosen if run.dataset == name} or {name})]
    found = {place: found[place] for place in product(rows, columns) if place in found}
    trained = [set(run.column.setting) for run in chosen if run.args["epoch"]]
    shared = set.intersection(*trained) if trained else set()
    key, how = METRICS[args.metric]
    numbers = {place: [run.result[key] for run in by_seed.values()] for place, by_seed in found.items()}
    cells = {place: [100 * number for number in each] for place, each in numbers.items() if None not in each}

    network, seeds = runs[0].network, sorted({run.seed for run in chosen})
    over = "mean ± sample standard deviation over seeds" if len(seeds) > 1 else "seed"
    caption = f"{network}: test accuracy in percent {how}; {over} {', '.join(map(str, seeds))}."
    caption += f" All trained with: {', '.join(sorted(shared))}." if shared else ""
    notes = remarks([run for run in runs if is_named(run, args)], found, cells, shared)
    table = Table(network, caption, rows, columns, shared, cells, notes)
    table.notes[:0] = comparisons(table)
    return table


def remarks(runs: list[Receipt], found: dict, cells: dict, shared: set[str]) -> list[str]:
    """What of the `runs` is not in the `cells`, and what is together in one of them; a line each."""
    title = {(row, column): f"{column.label(shared)} on {row}" for row, column in found}
    kept = [run.path for by_seed in found.values() for run in by_seed.values()]
    mixed = {title[place]: differing_flags(list(by_seed.values())) for place, by_seed in found.items()}
    unfinished = sum(not run.finished for run in runs)
    lists = {
        "Runs not finished, left out": [str(unfinished)] if unfinished else [],
        "Second runs of one seed, left out": [str(run.path) for run in runs if run.finished and run.path not in kept],
        "No validation split, hence a dash": [title[place] for place in found if place not in cells],
        "Averaged over several values of a flag": [f"{cell} ({names})" for cell, names in mixed.items() if names],
    }
    return [f"{what}: {', '.join(which)}." for what, which in lists.items() if which]


def differing_flags(runs: list[Receipt]) -> str:
    """The flags that are not the same in all runs of a cell: defaults that another machine or version had."""
    first = runs[0].args
    names = first.keys() - {*MACHINE, *PLACE, *CLIP, "working_directory", "data_path", "setting"}
    return ", ".join(sorted(name for name in names if any(run.args.get(name) != first[name] for run in runs)))


def comparisons(table: Table) -> list[str]:
    """What the papers headline beside what was measured, for every setting in which both sides have a column."""
    lines = []
    for figure, column in product(PUBLISHED, table.columns):
        sides = [column, *([Column(figure.baseline, column.setting)] if figure.baseline else [])]
        if (figure.network, figure.method) != (table.network, column.method) or sides[-1] not in table.columns:
            continue
        names, sign = figure.datasets, "+" if figure.baseline else ""
        title = " over ".join([*(METHODS[side.method] for side in sides[:-1]), sides[-1].label(table.shared)])
        title += f", mean of {len(names)} data sets" if len(names) > 1 else f", {names[0]}"
        absent = [name for name in names if not all(table.cells.get((name, side)) for side in sides)]
        if not absent:
            means = [fmean(fmean(table.cells[name, side]) for name in names) for side in sides]
            counts = sorted({len(table.cells[place]) for place in product(names, sides)})
            here = f"{means[0] - sum(means[1:]):{sign}.1f} here (n = {', '.join(map(str, counts))})"
            lines.append(f"{title}: {here}, {figure.points:{sign}.1f} published ({figure.source}).")
        elif len(absent) < len(names):
            published = f"{figure.points:{sign}.1f} published ({figure.source})"
            lines.append(f"{title}: not computed, missing {', '.join(absent)}; {published}.")
    return lines


# Missing runs -------------------------------------------------------------------------------------------------------


def missing(runs: list[Receipt], args: argparse.Namespace) -> list[str]:
    """The commands of a network's runs that are not finished, or not there at all; they write into the same results."""
    begun = [(run.dataset, run.column, run.seed) for run in runs if not run.finished and is_named(run, args)]
    done = {(run.dataset, run.column, run.seed) for run in runs if run.finished}
    places = dict.fromkeys([*product(*axes(runs, args)), *begun])
    results = args.results.resolve()
    where = "" if results == cfg.results_path.resolve() else f"VP_RESULTS_PATH={shlex.quote(str(results))} "
    return [where + command(runs, *place) for place in places if place not in done]


def command(runs: list[Receipt], dataset: str, column: Column, seed: int) -> str:
    """What to type, from here, for a run: another one's command in its column, or the script's with no more flags.

    The files of a CLIP stand in it with their whole path.
    """
    same = sorted((run for run in runs if run.column == column), key=lambda r: (r.dataset, r.seed) != (dataset, seed))
    args = (same or runs)[0].args
    clip = {f"--{name.replace('_', '-')}": args[name] for name in CLIP if args.get(name)}
    if same:
        typed = same[0].command[2:]
        words = [part for word in typed for part in (word.split("=", 1) if word.startswith("--") else [word])]
    elif clip:
        words = ["--clip-config" if "--clip-config" in clip else "--clip-model", "", "--pretrained", ""]
    else:
        words = ["--network", args["network"]]
    values = {**clip, "--dataset": dataset, "--seed": str(seed)}
    words += [word for flag in ("--dataset", "--seed") if flag not in words for word in (flag, "")]
    words = [values.get(before, word) for before, word in zip(["", *words[:-1]], words, strict=True)]
    return shlex.join(["python", os.path.relpath(ROOT / "experiments" / f"{column.method}.py"), *words])


if __name__ == "__main__":
    run_command(main)
