"""Which runs of a folder of results a table or a page shows: the flags that choose them, and the runs as a DataFrame.

A DataFrame of runs has one row a run: the fields of its Receipt, its `method`, and the Receipt itself as `run`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from errors import UserError, unknown_name
from tools.common.flag_types import dataset_name, positive_int, seed_number
from tools.common.machine import ROOT
from tools.reporting.methods import FROM, Column, position
from tools.reporting.receipt_file import read_receipt_file
from tools.reporting.receipts import METRICS, Receipt, read_receipts

pd.set_option("mode.string_storage", "python")  # names in a file may hold half characters, which pyarrow refuses


def add_table_flags(parser: argparse.ArgumentParser, datasets: Sequence[str]) -> None:
    """Adds the flags that choose runs and their numbers. `datasets` are the known ones, in the order of the rows.

    The command adds `results` itself: a folder, or a list of folders and files of receipts.
    """
    parser.add_argument("--metric", choices=METRICS, default="last", help="which accuracy; default last")
    parser.add_argument("--network", metavar="NAME", help="only this network, as its runs' folders name it")
    rows = "only these rows; default all that were run"
    parser.add_argument("--datasets", nargs="+", type=dataset_name, metavar="NAME", help=rows)
    scripts = [f"{file.parent.name}/{file.stem}" for file in sorted(ROOT.glob("experiments/*/*.py"))]
    methods = "only these columns, cnn/ilm_vp for example; default all that were run"
    parser.add_argument("--methods", nargs="+", choices=scripts, metavar="FOLDER/SCRIPT", help=methods)
    seeds = "only these seeds; default all that were run"
    parser.add_argument("--seeds", nargs="+", type=seed_number, metavar="N", help=seeds)
    epochs = "only runs of so many epochs, and methods that train nothing; default all that were run"
    parser.add_argument("--epochs", type=positive_int, metavar="N", help=epochs)
    parser.set_defaults(order=list(datasets), transpose=False)


def read_networks(args: argparse.Namespace) -> tuple[list[pd.DataFrame], list[str]]:
    """The runs of each network that the flags name, in the order of the rows, and notes on runs that cannot be used.

    Raises:
        UserError: there is no run, no run of --epochs, or no run of --network.
    """
    receipts, notes = read_sources(args.results if isinstance(args.results, list) else [args.results])
    receipts.sort(key=lambda run: (position(run.dataset, args.order), run.column, run.seed))
    kept = [run for run in receipts if not args.epochs or run.epochs in (0, args.epochs)]
    if not kept:
        found = ", ".join(map(str, sorted({run.epochs for run in receipts})))
        raise UserError(
            f"--epochs {args.epochs}: no run has so many.", f"There are runs of {found}.", "Name one of them."
        )
    runs = pd.DataFrame([{**vars(run), "method": run.column.method, "run": run} for run in kept])
    networks = dict(list(runs.groupby("network")))
    if args.network and args.network not in networks:
        raise unknown_name("--network", args.network, list(networks))
    chosen = [networks[args.network]] if args.network else list(networks.values())
    folders = {column.folder for group in chosen for column in group.column}
    unknown = [method for method in args.methods or () if Column(method).folder not in folders]
    notes += [f"Left out, {method}: none of its folder was run, so its network is not known." for method in unknown]
    return chosen, notes


def read_sources(sources: Sequence[Path]) -> tuple[list[Receipt], list[str]]:
    """The runs of folders of results and of files of receipts, and notes on runs that cannot be used.

    If there are several sources, the setting of each run says which one it is from, so that each has its own columns.
    """
    receipts, notes = [], []
    stems = [source.stem for source in sources]
    for source in sources:
        found, more = read_receipt_file(source) if source.is_file() else read_receipts(source)
        if len(sources) > 1:
            word = FROM + (source.stem if stems.count(source.stem) == 1 else str(source))
            columns = [Column(run.column.method, tuple(sorted((*run.column.setting, word)))) for run in found]
            found = [replace(run, column=column) for run, column in zip(found, columns, strict=True)]
        receipts += found
        notes += more
    return receipts, notes


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
