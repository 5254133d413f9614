"""Tables of accuracies, made from the receipts of runs: rows are data sets, columns are methods, one table a network.

A DataFrame of runs has one row a run: the fields of its Receipt, its `method`, and the Receipt itself as `run`.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import pandas as pd

import cfg
from errors import unknown_name
from tools.common.flag_types import dataset_name, seed_number
from tools.common.machine import ROOT
from tools.common.naming import CLIP, MACHINE, PLACE
from tools.reporting.methods import METHODS, Column, position
from tools.reporting.receipts import METRICS, Receipt, read_receipts

pd.set_option("mode.string_storage", "python")  # names in a file may hold half characters, which pyarrow refuses


def add_table_flags(parser: argparse.ArgumentParser, datasets: Sequence[str]) -> None:
    """Adds the flags that choose runs and their numbers. `datasets` are the known ones, in the order of the rows."""
    where = "the folder of results; default results_path of cfg.py"
    parser.add_argument("results", nargs="?", type=Path, default=cfg.results_path, help=where)
    parser.add_argument("--metric", choices=METRICS, default="last", help="which test accuracy; default last")
    parser.add_argument("--network", metavar="NAME", help="only this network, as its runs' folders name it")
    rows = "only these rows; default all that were run"
    parser.add_argument("--datasets", nargs="+", type=dataset_name, metavar="NAME", help=rows)
    scripts = [f"{file.parent.name}/{file.stem}" for file in sorted(ROOT.glob("experiments/*/*.py"))]
    methods = "only these columns, cnn/ilm_vp for example; default all that were run"
    parser.add_argument("--methods", nargs="+", choices=scripts, metavar="FOLDER/SCRIPT", help=methods)
    seeds = "only these seeds; default all that were run"
    parser.add_argument("--seeds", nargs="+", type=seed_number, metavar="N", help=seeds)
    parser.set_defaults(order=list(datasets))


def read_networks(args: argparse.Namespace) -> tuple[list[pd.DataFrame], list[str]]:
    """The runs of each network that the flags name, in the order of the rows, and notes on runs that cannot be used.

    Raises:
        UserError: there is no run, or no run of --network.
    """
    receipts, notes = read_receipts(args.results)
    receipts.sort(key=lambda run: (position(run.dataset, args.order), run.column, run.seed))
    runs = pd.DataFrame([{**vars(run), "method": run.column.method, "run": run} for run in receipts])
    networks = dict(list(runs.groupby("network")))
    if args.network and args.network not in networks:
        raise unknown_name("--network", args.network, list(networks))
    chosen = [networks[args.network]] if args.network else list(networks.values())
    folders = {column.folder for group in chosen for column in group.column}
    unknown = [method for method in args.methods or () if Column(method).folder not in folders]
    notes += [f"Left out, {method}: none of its folder was run, so its network is not known." for method in unknown]
    return chosen, notes


def named(runs: pd.DataFrame, args: argparse.Namespace) -> pd.DataFrame:
    """The runs whose data set, method and seed the flags name. A flag that was not given admits all."""
    for key, names in {"dataset": args.datasets, "method": args.methods, "seed": args.seeds}.items():
        runs = runs[runs[key].isin(names)] if names else runs
    return runs


def axes(runs: pd.DataFrame, args: argparse.Namespace) -> tuple[list[str], list[Column], list[int]]:
    """A network's data sets, columns and seeds: those that the flags name, else those of its finished runs.

    A method that is named but was not run has a column if another method of its folder was run.
    """
    done, folders = runs[runs.finished], {column.folder for column in runs.column}
    columns = {column for column in done.column if not args.methods or column.method in args.methods}
    without = [Column(method) for method in set(args.methods or ()) - set(done.method)]
    columns |= {column for column in without if column.folder in folders}
    return list(dict.fromkeys(args.datasets or done.dataset)), sorted(columns), args.seeds or sorted(set(done.seed))


@dataclass(frozen=True)
class Table:
    """One network's accuracies in percent.

    Args:
        rows: row -> its data set. Data sets of one name, but with other test images, have rows of their own.
        shared: the flags of the setting that all trained runs have in common.
        runs: the DataFrame of all runs in the cells, with their `row` and `accuracy`.
        cells: (row, column) -> `mean`, `std` and `n` over seeds. There is no cell if one of its runs has no number.
    """

    network: str
    caption: str
    rows: dict[str, str]
    columns: list[Column]
    shared: set[str]
    runs: pd.DataFrame
    cells: pd.DataFrame
    notes: list[str]

    def pivot(self, cells: pd.Series) -> pd.DataFrame:
        """Rows by columns; NaN where there is no cell."""
        return cells.unstack().reindex(index=list(self.rows), columns=self.columns)

    @cached_property
    def means(self) -> pd.DataFrame:
        return self.pivot(self.cells["mean"])

    @cached_property
    def best(self) -> pd.DataFrame:
        """Whether a cell is the best of its row, if that has several cells. Cells with the same text are all best."""
        printed = self.means.map(lambda mean: float(f"{mean:.1f}"))
        return printed.eq(printed.max(axis=1), axis=0).mul(printed.count(axis=1) > 1, axis=0)

    @cached_property
    def words(self) -> pd.DataFrame:
        """`85.4 ± 0.6`; no deviation for one seed; n is added if other cells have more seeds; a dash for no seed."""
        mean, std, n = (self.cells[name] for name in ("mean", "std", "n"))
        words = mean.map("{:.1f}".format) + std.map(" ± {:.1f}".format).where(n > 1, "")
        return self.pivot(words + n.map(" (n = {})".format).where(n < n.max(), "")).fillna("-")


def build_table(runs: pd.DataFrame, args: argparse.Namespace) -> Table:
    """The table of one network's runs. Its notes compare with the papers, and say which runs are not in it."""
    (key, how, absent), (datasets, columns, _) = METRICS[args.metric], axes(runs, args)
    network, runs = runs.network.iloc[0], named(runs, args)
    done = runs[runs.finished]
    largest = {run.dataset: run for run in sorted(done.run, key=lambda run: (run.size, run.images))}
    names = [row_name(run, largest[run.dataset]) for run in done.run]
    accuracies = [100 * run.result[key] if run.result.get(key) is not None else float("nan") for run in done.run]
    done = done.assign(row=names, accuracy=accuracies)
    rows = {row: name for name in datasets for row in sorted(set(done.row[done.dataset == name]) or {name})}
    again = done.duplicated(["row", "column", "seed"])
    cells = done[~again].groupby(["row", "column"], sort=False)
    cells = cells.accuracy.agg(["mean", "std", "count", "size"]).assign(mixed=cells.run.agg(differing_flags))
    cells = cells.rename(columns={"count": "n"})
    whole = cells.n == cells["size"]

    trained = [set(run.column.setting) for run in done.run if run.args["epoch"]]
    shared, seeds = set.intersection(*trained) if trained else set(), sorted(set(done.seed))
    over = "mean ± sample standard deviation over seeds" if len(seeds) > 1 else "seed"
    caption = f"{network}: test accuracy in percent {how}; {over} {', '.join(map(str, seeds))}."
    caption += f" All trained with: {', '.join(sorted(shared))}." if shared else ""
    titles = pd.Series([f"{column.label(shared)} on {row}" for row, column in cells.index], cells.index, dtype=object)
    lists = {
        "Runs not finished, left out": [str(len(runs) - len(done))] if len(runs) > len(done) else [],
        "Second runs of one seed, left out": [str(path) for path in done.path[again]],
        f"{absent}, hence a dash": titles[~whole],
        "Averaged over several values of a flag": (titles + " (" + cells.mixed + ")")[cells.mixed != ""],
    }
    notes = [f"{what}: {', '.join(which)}." for what, which in lists.items() if len(which)]
    table = Table(network, caption, rows, columns, shared, done[~again], cells[whole], notes)
    if args.metric != "corruptions":  # the papers' headlines are of clean images
        notes[:0] = comparisons(table)
    return table


def row_name(run: Receipt, largest: Receipt) -> str:
    """The data set's name; with what differs, if its images are not those of the largest data set of this name."""
    if run.size != largest.size:
        return f"{run.dataset} ({run.size[0]} classes, {run.size[1]} test images)"
    other = run.images and run.images != largest.images
    return f"{run.dataset} (other test images, {run.images.split()[-1]})" if other else run.dataset


def differing_flags(runs: Iterable[Receipt]) -> str:
    """The flags that differ between the runs of a cell: another machine or version may have other defaults."""
    first, *others = (run.args for run in runs)
    names = first.keys() - {*MACHINE, *PLACE, *CLIP, "working_directory", "data_path", "data", "setting"}
    return ", ".join(sorted(name for name in names if any(args.get(name) != first[name] for args in others)))


def comparisons(table: Table) -> list[str]:
    """The papers' headlines beside the measured numbers, for every setting in which both methods have a column."""
    lines = []
    figures = [(row.script, figure) for row in METHODS.values() for figure in row.headlines]
    for (method, figure), column in product(figures, table.columns):
        sides = [column, *([Column(figure.baseline, column.setting)] if figure.baseline else [])]
        if (figure.network, method) != (table.network, column.method) or sides[-1] not in table.columns:
            continue
        names, sign = list(figure.datasets), "+" if figure.baseline else ""
        title = " over ".join([*(Column(side.method).label() for side in sides[:-1]), sides[-1].label(table.shared)])
        title += f", mean of {len(names)} data sets" if len(names) > 1 else f", {names[0]}"
        published = f"{figure.points:{sign}.1f} published ({figure.source})"
        found = table.means.reindex(names)[sides]
        absent = found.index[found.isna().any(axis=1)]
        if absent.empty:
            points, *baseline = found.mean()
            counts = sorted({table.cells.n[cell] for cell in product(names, sides)})
            here = f"{points - sum(baseline):{sign}.1f} here (n = {', '.join(map(str, counts))})"
            lines.append(f"{title}: {here}, {published}.")
        elif len(absent) < len(names):
            lines.append(f"{title}: not computed, missing {', '.join(absent)}; {published}.")
    return lines


# Formats: each returns the text of the tables, and the notes that are not in the text -------------------------------

_MARKDOWN = str.maketrans({"|": r"\|"})
_LATEX = str.maketrans({character: f"\\{character}" for character in "&%$#_{}"})
_LATEX |= str.maketrans({"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"})
_LATEX |= str.maketrans({"[": "{[}", "<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$"})


def grid(table: Table, escape: dict[int, str], bold: str) -> pd.DataFrame:
    """The table as escaped text, with the rows' names as first column, and the best of each row in `bold`."""
    words = table.words.map(lambda text: text.translate(escape))
    words = words.where(~table.best, words.map(bold.format))
    words.columns = [column.label(table.shared).translate(escape) for column in table.columns]
    words.insert(0, "data set", [row.translate(escape) for row in table.rows])
    return words


def markdown(tables: list[Table], notes: list[str]) -> tuple[str, list[str]]:
    blocks = []
    for table in tables:
        text = grid(table, _MARKDOWN, "**{}**")
        lines = [list(text), *text.to_numpy()]  # by hand: pandas' to_markdown needs one more package
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        lines.insert(1, ["-" * width for width in widths])
        padded = [map(str.ljust, line, widths) for line in lines]
        blocks += [table.caption, "\n".join(f"| {' | '.join(line)} |" for line in padded)]
        blocks += ["\n".join(f"- {note}" for note in table.notes)]
    return "\n\n".join(filter(None, [*blocks, "\n".join(f"- {note}" for note in notes)])) + "\n", []


def latex(tables: list[Table], notes: list[str]) -> tuple[str, list[str]]:
    lines = [r"% \usepackage{booktabs}", *(f"% {' '.join(note.split())}" for note in notes)]
    for table in tables:
        style = grid(table, _LATEX, r"\textbf{{{}}}").style.hide(axis="index")
        tabular = style.to_latex(hrules=True, column_format="l" + "c" * len(table.columns))
        lines += [r"\begin{table}", r"\centering", rf"\caption{{{table.caption.translate(_LATEX)}}}", tabular.rstrip()]
        lines += [*(rf"\par {note.translate(_LATEX)}" for note in table.notes), r"\end{table}"]
    return "\n".join(lines) + "\n", []


def comma_separated(tables: list[Table], notes: list[str]) -> tuple[str, list[str]]:
    """One table for all networks: mean, standard deviation and n of every column. The captions become notes."""
    frames = {}
    for table in tables:
        kinds = {"": table.means, " std": table.pivot(table.cells["std"]), " n": table.pivot(table.cells.n)}
        parts = {c.label() + kind: frame[c] for c in table.columns for kind, frame in kinds.items()}
        frames[table.network] = pd.DataFrame(parts)
    text = pd.concat(frames, names=["network", "data set"])
    counts = text.filter(regex=" n$").fillna(0).astype(int)
    text = text.assign(**counts).to_csv(float_format="%.1f", lineterminator="\n")
    return text, [line for table in tables for line in (table.caption, *table.notes)] + notes


FORMATS = {"markdown": markdown, "latex": latex, "csv": comma_separated}
