"""A table of accuracies in Markdown, LaTeX or CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from tools.common.results import Column

MARKDOWN = str.maketrans({"|": r"\|"})
LATEX = str.maketrans({character: f"\\{character}" for character in "&%$#_{}"})
LATEX |= str.maketrans({"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"})
LATEX |= str.maketrans({"[": "{[}", "<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$"})


@dataclass(frozen=True)
class Table:
    """One network's accuracies in percent, one a seed, by row and column; `shared` is what all that train have set."""

    network: str
    caption: str
    rows: list[str]
    columns: list[Column]
    shared: set[str]
    cells: dict[tuple[str, Column], list[float]]
    notes: list[str]


def in_words(cell: Sequence[float], most: int) -> str:
    """`85.4 ± 0.6`; no deviation of a single seed, n where it is below the `most` of the table, a dash for no seed."""
    if not cell:
        return "-"
    deviation = f" ± {stdev(cell):.1f}" if len(cell) > 1 else ""
    return f"{fmean(cell):.1f}{deviation}" + (f" (n = {len(cell)})" if len(cell) < most else "")


def in_numbers(cell: Sequence[float]) -> tuple[str, str, int]:
    """Mean and standard deviation, empty where there is none, and n."""
    return f"{fmean(cell):.1f}" if cell else "", f"{stdev(cell):.1f}" if len(cell) > 1 else "", len(cell)


def grid(table: Table, escape: dict[int, str], bold: str) -> list[list[str]]:
    """The table as text, the head first; the best of a row of several in `bold`."""
    most = max(map(len, table.cells.values()), default=0)
    lines = [[text.translate(escape) for text in ("data set", *(c.label(table.shared) for c in table.columns))]]
    for row in table.rows:
        cells = [table.cells.get((row, column), []) for column in table.columns]
        means = [round(fmean(cell), 1) if cell else -1 for cell in cells]
        best = max(means) if sum(map(bool, cells)) > 1 else None
        texts = [in_words(cell, most).translate(escape) for cell in cells]
        marked = [bold.format(text) if mean == best else text for text, mean in zip(texts, means, strict=True)]
        lines.append([row.translate(escape), *marked])
    return lines


def markdown(tables: list[Table], notes: list[str]) -> tuple[str, list[str]]:
    blocks = []
    for table in tables:
        lines = grid(table, MARKDOWN, "**{}**")
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        lines.insert(1, ["-" * width for width in widths])
        padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
        rows = "\n".join(f"| {' | '.join(line)} |" for line in padded)
        blocks += [table.caption, rows, "\n".join(f"- {note}" for note in table.notes)]
    return "\n\n".join(block for block in (*blocks, "\n".join(f"- {note}" for note in notes)) if block) + "\n", []


def latex(tables: list[Table], notes: list[str]) -> tuple[str, list[str]]:
    lines = [r"% \usepackage{booktabs}", *(f"% {' '.join(note.split())}" for note in notes)]
    for table in tables:
        head, *rows = [" & ".join(line) + r" \\" for line in grid(table, LATEX, r"\textbf{{{}}}")]
        lines += [r"\begin{table}", r"\centering", rf"\caption{{{table.caption.translate(LATEX)}}}"]
        lines += [rf"\begin{{tabular}}{{l{'c' * len(table.columns)}}}", r"\toprule", head, r"\midrule", *rows]
        lines += [r"\bottomrule", r"\end{tabular}", *(rf"\par {note.translate(LATEX)}" for note in table.notes)]
        lines += [r"\end{table}"]
    return "\n".join(lines) + "\n", []


def comma_separated(tables: list[Table], notes: list[str]) -> tuple[str, list[str]]:
    """One table for all networks, of numbers: mean, standard deviation and n of every column. Captions are notes."""
    labels = list(dict.fromkeys(column.label() for table in tables for column in table.columns))
    lines = [["network", "data set", *(f"{label}{what}" for label in labels for what in ("", " std", " n"))]]
    for table in tables:
        for row in table.rows:
            cells = {column.label(): table.cells.get((row, column), []) for column in table.columns}
            numbers = [number for label in labels for number in in_numbers(cells.get(label, []))]
            lines.append([table.network, row, *numbers])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue(), [line for table in tables for line in (table.caption, *table.notes)] + notes


FORMATS = {"markdown": markdown, "latex": latex, "csv": comma_separated}
