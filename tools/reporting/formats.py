"""Tables as text: Markdown, LaTeX, CSV. Each format returns the text, and the notes that are not in the text."""

import pandas as pd

from tools.reporting.methods import Column
from tools.reporting.published import RECORD
from tools.reporting.tables import Table

_MARKDOWN = str.maketrans({"|": r"\|"})
_LATEX = str.maketrans({character: f"\\{character}" for character in "&%$#_{}"})
_LATEX |= str.maketrans({"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"})
_LATEX |= str.maketrans({"[": "{[}", "<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$"})


def grid(table: Table, escape: dict[int, str], bold: str) -> pd.DataFrame:
    """The table as escaped text. The best of each row are in `bold`; published numbers stand in a row
    below. A transposed table has a row for each method."""
    names = [table.heads[column] for column in table.columns]
    record = [RECORD] * bool(table.records)
    lines = []
    for row in table.rows:
        cells = [table.words.at[row, column].translate(escape) for column in table.columns]
        best = [table.best.at[row, column] for column in table.columns]
        cells = [bold.format(text) if mark else text for text, mark in zip(cells, best, strict=True)]
        lines.append([row.translate(escape), str(table.images[row] or "-"), *cells, *[""] * len(record)])
        published = [table.published.get((row, column)) for column in table.columns]
        if any(published) or row in table.records:
            texts = ["published", "", *(number.text if number else "" for number in published)]
            texts += [table.records[row].named if row in table.records else ""] * len(record)
            lines.append([text.translate(escape) for text in texts])
    heads = ["data set", "test images", *(name.translate(escape) for name in names), *record]
    if table.transposed:
        heads, *lines = map(list, zip(heads, *lines, strict=True))
        heads[0] = "method"
    return pd.DataFrame(lines, columns=heads)


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
        text = grid(table, _LATEX, r"\textbf{{{}}}")
        tabular = text.style.hide(axis="index").to_latex(hrules=True, column_format="l" + "c" * (text.shape[1] - 1))
        lines += [r"\begin{table}", r"\centering", rf"\caption{{{table.caption.translate(_LATEX)}}}", tabular.rstrip()]
        lines += [*(rf"\par {note.translate(_LATEX)}" for note in table.notes), r"\end{table}"]
    return "\n".join(lines) + "\n", []


def comma_separated(tables: list[Table], notes: list[str]) -> tuple[str, list[str]]:
    """One table for all networks. A column has its mean, standard deviation, n, whether it is bold, what is published.

    The captions become notes.
    """
    frames = {}
    for table in tables:
        parts = {"test images": pd.Series({row: number or "" for row, number in table.images.items()})}
        for column in table.columns:
            parts |= {column.label() + kind: values for kind, values in kinds(table, column).items()}
        if table.records:
            parts[RECORD] = pd.Series({row: number.named for row, number in table.records.items()})
        frames[table.network] = pd.DataFrame(parts, index=list(table.rows))
    text = pd.concat(frames, names=["network", "data set"])
    counts = text.filter(regex=" n$").fillna(0).astype(int)
    text = text.assign(**counts).to_csv(float_format="%.1f", lineterminator="\n")
    return text, [line for table in tables for line in (table.caption, *table.notes)] + notes


def kinds(table: Table, column: Column) -> dict[str, pd.Series]:
    """The values of a column for CSV, by what follows its name."""
    found = {
        "": table.means[column],
        " std": table.pivot(table.cells["std"])[column],
        " n": table.pivot(table.cells.n)[column],
        " bold": table.best[column].map({True: "yes", False: ""}),
    }
    published = {row: number.accuracy for (row, other), number in table.published.items() if other == column}
    return found | ({" published": pd.Series(published)} if published else {})


FORMATS = {"markdown": markdown, "latex": latex, "csv": comma_separated}
