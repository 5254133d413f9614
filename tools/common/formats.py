"""Tables of accuracies in Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Sequence
from statistics import fmean, stdev

from tools.common.tables import Table, rows_in_words

MARKDOWN = str.maketrans({"|": r"\|"})
LATEX = str.maketrans({character: f"\\{character}" for character in "&%$#_{}"})
LATEX |= str.maketrans({"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"})
LATEX |= str.maketrans({"[": "{[}", "<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$"})


def in_numbers(cell: Sequence[float]) -> tuple[str, str, int]:
    """Mean and standard deviation, empty where there is none, and n."""
    return f"{fmean(cell):.1f}" if cell else "", f"{stdev(cell):.1f}" if len(cell) > 1 else "", len(cell)


def grid(table: Table, escape: dict[int, str], bold: str) -> list[list[str]]:
    """The table as text, the head first; the best of a row of several in `bold`."""
    text = [[words.translate(escape) for words in ("data set", *(c.label(table.shared) for c in table.columns))]]
    for row, cells in rows_in_words(table):
        words = [(bold if cell.best else "{}").format(cell.text.translate(escape)) for cell in cells]
        text.append([row.translate(escape), *words])
    return text


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
