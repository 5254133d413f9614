"""Tables of accuracies, made from the receipts of runs: rows are data sets, columns are methods, one table a network.

The DataFrames of runs are those of `selection.py`.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
import pandas as pd

from data import catalog
from tools.common.naming import CLIP, MACHINE, PLACE
from tools.reporting.methods import FROM, METHODS, Column
from tools.reporting.published import Published, Source, published_in, record
from tools.reporting.receipts import METRICS, Receipt, number
from tools.reporting.selection import axes, named


@dataclass(frozen=True)
class Table:
    """One network's accuracies in percent.

    Args:
        rows: row -> its data set. Data sets of one name, but with other test images, have rows of their own.
        images: row -> its number of test images, 0 where no run knows it.
        shared: the flags of the setting that all trained runs have in common.
        runs: the DataFrame of all runs in the cells, with their `row` and `accuracy`.
        cells: (row, column) -> `mean`, `std` and `n` over seeds, `epochs`, and `error`, the standard error of the
            mean. There is no cell if one of its runs has no number.
        transposed: whether the table is written with a row for each column.
        published: (row, column) -> the number that a paper gives for it.
        records: row -> the best published prompt.
    """

    network: str
    caption: str
    rows: dict[str, str]
    images: dict[str, int]
    columns: list[Column]
    shared: set[str]
    runs: pd.DataFrame
    cells: pd.DataFrame
    notes: list[str]
    published: dict[tuple[str, Column], Published]
    records: dict[str, Published]
    transposed: bool = False

    def pivot(self, cells: pd.Series) -> pd.DataFrame:
        """Rows by columns; NaN where there is no cell."""
        return cells.unstack().reindex(index=list(self.rows), columns=self.columns)

    @cached_property
    def means(self) -> pd.DataFrame:
        return self.pivot(self.cells["mean"])

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """The epochs of every cell; NaN where there is none, or nothing is trained."""
        epochs = self.pivot(self.cells.epochs)
        return epochs.where(epochs > 0)

    @cached_property
    def heads(self) -> dict[Column, str]:
        """The columns' names. They tell the epochs of each if these differ."""
        several = self.cells.epochs[self.cells.epochs > 0].nunique() > 1
        epochs = {column: self.epochs[column].max() for column in self.columns}
        more = {column: [f"epoch {number:.0f}"] for column, number in epochs.items() if several and number > 0}
        return {column: column.label(self.shared, more.get(column, ())) for column in self.columns}

    @cached_property
    def mixed(self) -> list[str]:
        """The rows whose columns were trained for different numbers of epochs. They are not compared."""
        return [row for row in self.rows if self.epochs.loc[row].nunique() > 1]

    @cached_property
    def best(self) -> pd.DataFrame:
        """Whether a cell is the best of its row, or does not differ from it. A row of one cell has none.

        Two means do not differ if they are nearer than twice the standard error of their difference.
        """
        best = pd.DataFrame(False, index=list(self.rows), columns=self.columns)
        errors = self.pivot(self.cells.error)
        for row, means in self.means.iterrows():
            if means.count() > 1 and row not in self.mixed:
                spread = 2 * np.hypot(errors.loc[row], errors.at[row, means.idxmax()])
                best.loc[row] = means.eq(means.max()) | (means.max() - means < spread)
        return best

    @cached_property
    def words(self) -> pd.DataFrame:
        """`85.4 ± 0.6`; no deviation for one seed; n is added if other cells have more seeds; a dash for no seed."""
        mean, std, n = (self.cells[name] for name in ("mean", "std", "n"))
        words = mean.map("{:.1f}".format) + std.map(" ± {:.1f}".format).where(n > 1, "")
        return self.pivot(words + n.map(" (n = {})".format).where(n < n.max(), "")).astype(object).fillna("-")


def build_table(runs: pd.DataFrame, args: argparse.Namespace) -> Table:
    """The table of one network's runs. Its notes compare with the papers, and say which runs are not in it."""
    (key, how, absent), (datasets, columns, _) = METRICS[args.metric], axes(runs, args)
    network, runs = runs.network.iloc[0], named(runs, args)
    done = runs[runs.finished]
    largest = {run.dataset: run for run in sorted(done.run, key=lambda run: (run.size, run.images))}
    names = [row_name(run, largest[run.dataset]) for run in done.run]
    columns = [column for column in columns if column.method in (args.methods or ()) or column in set(done.column)]
    accuracies = [100 * run.result[key] if run.result.get(key) is not None else float("nan") for run in done.run]
    done = done.assign(row=names, accuracy=accuracies)
    rows = {row: name for name in datasets for row in sorted(set(done.row[done.dataset == name]) or {name})}
    sizes = {row: run.size for row, run in zip(done.row, done.run, strict=True)}
    again = done.duplicated(["row", "column", "seed"])
    tested = args.metric != "val"
    cells = summed_up(done[~again], tested)
    whole = cells.n == cells["size"]

    trained = [set(run.column.setting) for run in done.run if run.epochs]
    shared = {word for word in set.intersection(*trained) if not word.startswith(FROM)} if trained else set()
    titles = pd.Series([f"{column.label(shared)} on {row}" for row, column in cells.index], cells.index, dtype=object)
    lists = {
        "Runs not finished, left out": [str(len(runs) - len(done))] if len(runs) > len(done) else [],
        "Second runs of one seed, left out": [str(path) for path in done.path[again]],
        f"{absent}, hence a dash": titles[~whole],
        "Questions of training, and images in them": (titles + " " + cells.asked)[cells.asked != ""],
        "Averaged over several values of a flag": (titles + " (" + cells.mixed + ")")[cells.mixed != ""],
    }
    notes = [f"{what}: {', '.join(which)}." for what, which in lists.items() if len(which)]
    clean = tested and args.metric != "corruptions"  # the papers' numbers are of clean test images
    published = published_beside(network, rows, sizes, columns) if clean else ({}, {})
    images = {row: sizes[row][1] if row in sizes and tested else 0 for row in rows}
    parts = (rows, images, columns, shared, done[~again], cells[whole], notes, *published)
    table = Table(network, "", *parts, transposed=args.transpose)
    if table.mixed:
        which = ", ".join(table.mixed)
        notes[:0] = [f"Nothing is bold where the epochs differ (--epochs N shows the runs of one number): {which}."]
    notes[:0] = [*(comparisons(table) if clean else []), *sources(table)]
    return replace(table, caption=caption(table, how, sorted(set(done.seed))))


def summed_up(runs: pd.DataFrame, tested: bool) -> pd.DataFrame:
    """The cells of a Table, with their `size`, the number of runs, and `mixed`, the flags that differ between them.

    `asked` is what training asked a black box, the most of the runs; "" for networks that give gradients.

    Args:
        tested: whether the accuracies are of the test images, whose number then counts for the `error`.
    """
    groups = runs.groupby(["row", "column"], sort=False)
    cells = groups.accuracy.agg(["mean", "std", "count", "size"]).rename(columns={"count": "n"})
    images = groups.run.agg(lambda cell: tested * cell.iloc[0].size[1])
    error = standard_error(cells["mean"], cells["std"], cells.n, images.astype(float))
    flags, asked = groups.run.agg(differing_flags), groups.run.agg(questions)
    return cells.assign(error=error, mixed=flags, epochs=groups.epochs.max(), asked=asked)


def questions(runs: pd.Series) -> str:
    """The calls and the images that training asked, each the most of the runs; "" if no run asked."""
    calls, images = (max(number(run.result.get(key)) or 0 for run in runs) for key in ("calls", "images_asked"))
    return f"{calls:,.0f} ({images:,.0f})" if calls else ""


def caption(table: Table, how: str, seeds: list[int]) -> str:
    over = "mean ± sample standard deviation over seeds" if len(seeds) > 1 else "seed"
    sentences = [f"{table.network}: {how}; {over} {', '.join(map(str, seeds))}."]
    if table.best.any(axis=None):
        nearer = "nearer to it than twice the standard error of the difference (over seeds and test images)"
        sentences.append(f"Bold: the best of a row, and all that are {nearer}.")
        if (table.cells.n == 1).any():
            sentences.append("The deviation of a single seed is not known and counts as 0.")
    if table.shared:
        sentences.append(f"All trained with: {', '.join(sorted(table.shared))}.")
    return " ".join(sentences)


def standard_error(mean: pd.Series, std: pd.Series, n: pd.Series, images: pd.Series) -> pd.Series:
    """The standard error, in percent, of a mean accuracy in percent over `n` seeds.

    The seeds' part is std / sqrt(n); 0 for one seed, whose deviation is not known. The test images' part is the
    binomial's, sqrt(p (1 - p) / images); more seeds do not make it smaller, since all see the same images.
    """
    binomial = mean * (100 - mean) / images.where(images > 0)
    return np.sqrt((std**2 / n).fillna(0) + binomial.fillna(0))


def published_beside(
    network: str, rows: dict[str, str], sizes: dict[str, tuple[int, int]], columns: list[Column]
) -> tuple[dict[tuple[str, Column], Published], dict[str, Published]]:
    """The published number of each cell, and the published record of each row; none for a part of a data set."""
    sets = {row.name: (row.num_classes, row.counts[-1]) for row in catalog.DATASETS if row.counts}
    whole = {row: name for row, name in rows.items() if row in sizes and sets.get(name, sizes[row]) == sizes[row]}
    cells = product(whole.items(), columns)
    found = {(row, c): published_in(network, name, c.method, c.setting) for (row, name), c in cells}
    best = {
        row: max(records, key=lambda record: record.accuracy)
        for row, name in whole.items()
        if (records := [one for column in columns if (one := record(network, name, column.setting))])
    }
    return {cell: number for cell, number in found.items() if number}, best


def sources(table: Table) -> list[str]:
    """Where the published numbers beside the table come from, and how they were chosen."""
    methods: dict[Source, dict[str, None]] = {}
    for found in (*table.published.values(), *table.records.values()):
        methods.setdefault(found.source, {})[found.method] = None
    return [f"Published {', '.join(names)}: {of.name} ({of.how})." for of, names in methods.items()]


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
            cells = table.cells.loc[[*product(names, sides)]]
            spread = 2 * np.sqrt((cells.error**2).sum()) / len(names)
            none = ", none within its spread" if baseline and abs(points - baseline[0]) < spread else ""
            counts = ", ".join(map(str, sorted(set(cells.n))))
            here = f"{points - sum(baseline):{sign}.1f} here (n = {counts}{none})"
            lines.append(f"{title}: {here}, {published}.")
        elif len(absent) < len(names):
            lines.append(f"{title}: not computed, missing {', '.join(absent)}; {published}.")
    return lines
