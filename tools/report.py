"""Makes one HTML file of a results folder: tables, curves, and every run with its prompt, map and receipt.

    python tools/report.py
    python tools/report.py RESULTS --output report.html --metric at-best-val --network resnet18

The page needs no server and no internet, and can be read without JavaScript. With JavaScript a reader can sort tables
and choose methods, networks and data sets. A printed page has the tables, the curves, and the runs that are open.

A run with a prompt takes about 45 KB: its prompt 2 to 13, its heat map 23 to 27, its text the rest. How its map changed
takes 8 KB for 10 targets, up to 80 for a map that never settles. The curves of five methods over 200 epochs take 190
KB, their comparison on 100 classes 130. A page of 60 runs of 200 epochs with 100 classes took 13 s of one processor and
4.6 MB.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import base64
import hashlib
import time
from collections import Counter, defaultdict
from dataclasses import dataclass

import jinja2
from markupsafe import Markup
from tqdm import tqdm

import cfg
from data import catalog
from errors import UserError
from tools.common.args import Parser
from tools.common.command import run_command
from tools.common.files import write_whole
from tools.common.machine import ROOT
from tools.common.shell import in_shell
from tools.reporting.comparison import Comparison, comparisons
from tools.reporting.curves import Line, panels, style, swatch
from tools.reporting.methods import Column, position
from tools.reporting.published import RECORD
from tools.reporting.receipts import METRICS
from tools.reporting.run_view import RunView, view
from tools.reporting.selection import add_table_flags, named, read_networks
from tools.reporting.tables import Table, build_table

TEMPLATES = ROOT / "tools" / "reporting" / "templates"


@dataclass(frozen=True)
class Curves:
    """The panels of one network and data set, and their legend: a swatch, a method and a name for each line."""

    network: str
    row: str
    dataset: str
    legend: list[tuple[Markup, str, str]]
    panels: list[tuple[str, Markup, str]]


def main(argv: list[str] | None = None) -> Path:
    args = parse(argv)
    groups, notes = read_networks(args)
    output = target(args)
    chosen = [run for runs in groups for run in named(runs, args).run]
    views = {run.path: view(run) for run in tqdm(chosen, desc="runs", unit="run", leave=False)}
    tables = [build_table(runs, args) for runs in groups]
    looks = style(sorted({run.column for run in chosen}))
    curves = [each for table in tables for each in curves_of(table, views, looks)]
    compared = comparisons(views.values(), {table.network: table.shared for table in tables})
    notes += [f"{path}: {note}" for path, run in views.items() for note in run.notes]
    page = render(args, tables, curves, compared, list(views.values()), notes).encode(errors="replace")
    write_whole(output, lambda file: file.write_bytes(page))
    print("".join(f"{note}\n" for note in notes), end="")
    print(f"Report of {len(views)} runs, {len(page) / 1e6:.1f} MB: {output}")
    return output


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(__file__, __doc__)
    where = "the folder of results; default results_path of cfg.py"
    parser.add_argument("results", nargs="?", type=Path, default=cfg.results_path, help=where)
    add_table_flags(parser, [row.name for row in catalog.DATASETS])
    output = "the HTML file; default report.html in the folder of results"
    parser.add_argument("--output", type=Path, metavar="FILE", help=output)
    return parser.parse_args(argv)


def target(args: argparse.Namespace) -> Path:
    """The file to write. Raises UserError if it cannot be written, before minutes of work."""
    output = args.output or args.results / "report.html"
    asked = f"--output {output}: the file that the page is written to."
    if output.is_dir():
        raise UserError(asked, "That is a folder.", f"Type: {in_shell(['--output', str(output / 'report.html')])}")
    if not output.parent.is_dir():
        folder = in_shell([str(output.parent)])
        raise UserError(asked, f"There is no folder {folder}.", f"Make it: mkdir -p {folder}")
    return output


def curves_of(table: Table, views: dict[Path, RunView], looks: dict[Column, dict]) -> list[Curves]:
    """The figures of a network, one a data set.

    They show the runs of the table's cells. A cell without a finished run shows its unfinished runs.
    """
    runs = {cell: [views[path] for path in paths] for cell, paths in table.runs.groupby(["row", "column"]).path}
    unfinished: dict[tuple[str, Column], list[RunView]] = defaultdict(list)
    for run in views.values():
        cell = run.receipt.dataset, run.receipt.column
        if run.receipt.network == table.network and not run.receipt.finished and cell not in runs:
            unfinished[cell].append(run)
    runs |= unfinished
    figures = []
    for row in dict.fromkeys([*table.rows, *(row for row, _ in runs)]):
        columns = sorted(column for each, column in runs if each == row)
        lines = [line_of(column, runs[row, column], table.shared, looks[column]) for column in columns]
        lines = [line for line in lines if any(line.logs)]
        if shown := panels(lines, f"{table.network} {row}"):
            legend = [(swatch(line), line.method, line.label) for line in lines]
            figures.append(Curves(table.network, row, table.rows.get(row, row), legend, shown))
    return figures


def line_of(column: Column, runs: list[RunView], shared: set[str], look: dict) -> Line:
    label = column.label(shared) + ("" if runs[0].receipt.finished else ", unfinished")
    if len(runs) > 1:
        label += f", n = {len(runs)}"
    trained = bool(runs[0].receipt.args["epoch"])
    return Line(column.method, label, logs=[run.records for run in runs], trained=trained, **look)


def render(
    args,
    tables: list[Table],
    curves: list[Curves],
    compared: list[Comparison],
    runs: list[RunView],
    notes: list[str],
) -> str:
    """The page. Jinja2 escapes all text except the SVG, the style and the script, which this repository makes."""
    script, css = ((TEMPLATES / f"report.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    receipts = [run.receipt for run in runs]
    datasets = sorted({run.dataset for run in receipts}, key=lambda name: position(name, args.order))
    choices = {
        "network": {name: name for name in sorted({run.network for run in receipts})},
        "dataset": {name: name for name in datasets},
        "method": {c.method: Column(c.method).label() for c in sorted({run.column for run in receipts})},
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"label": Column.label, "name": lambda column: Column(column.method).label()}
    environment.filters |= {
        "percent": lambda value: "-" if value is None else f"{100 * value:.1f}",
        "minutes": lambda seconds: "-" if seconds is None else f"{seconds / 60:.1f}",
        "blank": lambda value: "" if value is None else value,
    }
    return environment.get_template("report.html").render(
        folder=args.results.absolute(),
        made=time.strftime("%Y-%m-%d %H:%M"),
        statuses=Counter(run.status for run in runs),
        metric=METRICS[args.metric],
        record=RECORD,
        tables=tables,
        curves=curves,
        compared=compared,
        runs=runs,
        choices=choices,
        notes=notes,
        css=Markup(css),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


if __name__ == "__main__":
    run_command(main)
