"""Tables of accuracies, made from the receipts of runs: rows are data sets, columns methods, one table a network."""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

import cfg
from errors import unknown_name
from tools.common.flag_types import seed_number
from tools.common.machine import ROOT
from tools.common.naming import CLIP, MACHINE, PLACE
from tools.common.results import METHODS, METRICS, Column, Receipt, read_receipts


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


@dataclass(frozen=True)
class Table:
    """One network's accuracies in percent, one a seed, by row and column; `shared` is what all that train have set.

    `rows` has each row's data set; `runs` are those of a cell, with or without the number that was asked for.
    """

    network: str
    caption: str
    rows: dict[str, str]
    columns: list[Column]
    shared: set[str]
    runs: dict[tuple[str, Column], list[Receipt]]
    cells: dict[tuple[str, Column], list[float]]
    notes: list[str]


@dataclass(frozen=True)
class Cell:
    """A cell in words, its mean in percent (None where it is empty), and whether it is the best of its row."""

    text: str
    mean: float | None
    best: bool


def add_table_flags(parser: argparse.ArgumentParser, datasets: Sequence[str]) -> None:
    """The folder of results, which number of them, and which runs.

    Args:
        datasets: the data sets that are known, in the order of the rows.
    """
    where = "the folder of results; default results_path of cfg.py"
    parser.add_argument("results", nargs="?", type=Path, default=cfg.results_path, help=where)
    parser.add_argument("--metric", choices=METRICS, default="last", help="which test accuracy; default last")
    parser.add_argument("--network", metavar="NAME", help="this network alone, named as its runs' folders begin")
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="these rows; default all that were run")
    scripts = [f"{file.parent.name}/{file.stem}" for file in sorted(ROOT.glob("experiments/*/*.py"))]
    methods = "these columns, cnn/ilm_vp for example; default all that were run"
    parser.add_argument("--methods", nargs="+", choices=scripts, metavar="FOLDER/SCRIPT", help=methods)
    parser.add_argument("--seeds", nargs="+", type=seed_number, metavar="N", help="default all that were run")
    parser.set_defaults(order=list(datasets))


def read_networks(args: argparse.Namespace) -> tuple[list[list[Receipt]], list[str]]:
    """The runs of each network that was asked for, and notes on what cannot be used.

    Raises:
        UserError: there is no run, or none of --network.
    """
    receipts, notes = read_receipts(args.results)
    networks = sorted({run.network for run in receipts})
    if args.network and args.network not in networks:
        raise unknown_name("--network", args.network, networks)
    groups = [[run for run in receipts if run.network == name] for name in networks if args.network in (None, name)]
    folders = {run.column.folder for runs in groups for run in runs}
    unknown = [method for method in args.methods or () if Column(method).folder not in folders]
    notes += [f"Left out, {method}: none of its folder was run, so its network is not known." for method in unknown]
    return groups, notes


def axes(runs: list[Receipt], args: argparse.Namespace) -> tuple[list[str], list[Column], list[int]]:
    """A network's data sets, columns and seeds: those that were named, else those of its finished runs."""
    finished, folders = [run for run in runs if run.finished], {run.column.folder for run in runs}
    columns = {run.column for run in finished if not args.methods or run.column.method in args.methods}
    without = {Column(method) for method in set(args.methods or ()) - {column.method for column in columns}}
    columns |= {column for column in without if column.folder in folders}
    datasets = args.datasets or sorted({run.dataset for run in finished}, key=lambda name: place_of(name, args.order))
    columns = sorted(columns, key=lambda column: (place_of(column.method, list(METHODS)), column.setting))
    return list(dict.fromkeys(datasets)), columns, args.seeds or sorted({run.seed for run in finished})


def place_of(name: str, known: list[str]) -> tuple[int, str]:
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

    by_seed: dict[tuple[str, Column], dict[int, Receipt]] = defaultdict(dict)
    for run in chosen:
        by_seed[row(run), run.column].setdefault(run.seed, run)
    names = {name: sorted({row(run) for run in chosen if run.dataset == name} or {name}) for name in datasets}
    rows = {each: name for name, own in names.items() for each in own}
    found = {place: list(by_seed[place].values()) for place in product(rows, columns) if place in by_seed}
    trained = [set(run.column.setting) for run in chosen if run.args["epoch"]]
    shared = set.intersection(*trained) if trained else set()
    key, how, absent = METRICS[args.metric]
    numbers = {place: [run.result.get(key) for run in each] for place, each in found.items()}
    cells = {place: [100 * number for number in each] for place, each in numbers.items() if None not in each}

    network, seeds = runs[0].network, sorted({run.seed for run in chosen})
    over = "mean ± sample standard deviation over seeds" if len(seeds) > 1 else "seed"
    caption = f"{network}: test accuracy in percent {how}; {over} {', '.join(map(str, seeds))}."
    caption += f" All trained with: {', '.join(sorted(shared))}." if shared else ""
    notes = remarks([run for run in runs if is_named(run, args)], found, cells, shared, absent)
    table = Table(network, caption, rows, columns, shared, found, cells, notes)
    if args.metric != "corruptions":  # the papers' headlines are of clean images
        table.notes[:0] = comparisons(table)
    return table


def remarks(runs: list[Receipt], found: dict, cells: dict, shared: set[str], absent: str) -> list[str]:
    """What of the `runs` is not in the `cells`, or why (`absent`), and what is together in one of them; a line each."""
    title = {(row, column): f"{column.label(shared)} on {row}" for row, column in found}
    kept = [run.path for each in found.values() for run in each]
    mixed = {title[place]: differing_flags(each) for place, each in found.items()}
    unfinished = sum(not run.finished for run in runs)
    lists = {
        "Runs not finished, left out": [str(unfinished)] if unfinished else [],
        "Second runs of one seed, left out": [str(run.path) for run in runs if run.finished and run.path not in kept],
        f"{absent}, hence a dash": [title[place] for place in found if place not in cells],
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


def rows_in_words(table: Table) -> list[tuple[str, list[Cell]]]:
    """The table's rows as they are to be read; where several cells are filled, the best one and its equals are so."""
    most, rows = max(map(len, table.cells.values()), default=0), []
    for row in table.rows:
        cells = [table.cells.get((row, column), []) for column in table.columns]
        means = [fmean(cell) if cell else None for cell in cells]
        rounded = [None if mean is None else round(mean, 1) for mean in means]
        several = sum(map(bool, cells)) > 1
        best = max(mean for mean in rounded if mean is not None) if several else None
        rows.append(
            (
                row,
                [
                    Cell(in_words(cell, most), mean, several and near == best)
                    for cell, mean, near in zip(cells, means, rounded, strict=True)
                ],
            )
        )
    return rows


def in_words(cell: Sequence[float], most: int) -> str:
    """`85.4 ± 0.6`; no deviation of a single seed, n where it is below the `most` of the table, a dash for no seed."""
    if not cell:
        return "-"
    deviation = f" ± {stdev(cell):.1f}" if len(cell) > 1 else ""
    return f"{fmean(cell):.1f}{deviation}" + (f" (n = {len(cell)})" if len(cell) < most else "")
