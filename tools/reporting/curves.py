"""Curves by epoch, or by what a black box was asked, as SVG with the page's font and text colour.

All methods stand in one figure.
"""

import io
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import fmean

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tools.reporting.methods import Column, rows_of
from tools.reporting.receipts import number

INK = "#010203"  # a placeholder in the figure for the page's text colour, which may be dark or light
_LOOK = {"font.size": 9, "font.sans-serif": ["DejaVu Sans"], "svg.fonttype": "none"}  # the widest of likely fonts
_LOOK |= {"axes.spines.top": False, "axes.spines.right": False}
_LOOK |= dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK)
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))  # the settings of one method


@dataclass(frozen=True)
class Panel:
    """A small figure of a `key` of log.jsonl, times `scale`, against the key `by`, a whole number that grows.

    The key `train` is drawn as a thin line beside it.
    """

    title: str
    key: str
    train: str | None = None
    scale: float = 1.0
    limits: tuple[float, float] | None = None
    by: str = "epoch"


PANELS = (
    Panel("Accuracy, %", "test_acc", "train_acc", 100),
    Panel("Loss", "test_loss", "train_loss"),
    Panel("Targets re-mapped, %", "remapped", scale=100, limits=(-3, 103)),
    Panel("Precision of the map, %", "mapping_precision", scale=100, limits=(-3, 103)),
    Panel("Accuracy, %, against questions of training", "test_acc", scale=100, by="calls"),  # of a black box
)


@dataclass(frozen=True)
class Line:
    """A column's runs in a figure. `logs` has the records of log.jsonl, a list a seed; `trained`: they have epochs."""

    method: str
    label: str
    colour: str
    marker: str
    dash: str | tuple
    logs: list[list[dict]]
    trained: bool

    def values(self, key: str, scale: float, by: str = "epoch") -> dict[int, list[float]]:
        """The value of `by` -> the runs' values of `key`. Values that are not numbers are left out."""
        found = defaultdict(list)
        for record in (record for records in self.logs for record in records):
            if (value := number(record.get(key))) is not None and (place := number(record.get(by))) is not None:
                found[place].append(scale * value)
        return dict(sorted(found.items()))


def style(columns: Sequence[Column]) -> dict[Column, dict]:
    """Each column's look: colour and marker show its method, the dash its setting. `columns` are all of a page."""
    rows, settings, looks = rows_of(column.method for column in columns), Counter(), {}
    for column in columns:
        row, dash = rows[column.method], _DASHES[settings[column.method] % len(_DASHES)]
        looks[column] = {"colour": row.colour, "marker": row.marker, "dash": dash}
        settings[column.method] += 1
    return looks


def panels(lines: Sequence[Line], name: str) -> list[tuple[str, Markup, str]]:
    """Title, SVG and text of every panel that has a curve. `name` distinguishes the figure from others on the page."""
    shown = []
    for panel in PANELS:
        curves = [line.values(panel.key, panel.scale, panel.by) for line in lines if line.trained]
        if any(len(values) > 1 for values in curves) or (panel.train and any(curves)):
            figure = svg(draw(lines, panel), f"{name} {panel.key} {panel.by}", lines)
            shown.append((panel.title, figure, describe(lines, panel)))
    return shown


@rc_context(_LOOK)
def draw(lines: Sequence[Line], panel: Panel) -> Figure:
    """One panel: a line is the mean over the seeds; its band goes from the smallest value to the largest."""
    figure = Figure(figsize=(4.2, 2.7), layout="constrained")
    axes = figure.subplots()
    for index, line in enumerate(lines):
        for artist in _draw_line(axes, line, panel):
            artist.set_gid(f"line-{index}")
    axes.set(xlabel=panel.by, ylim=panel.limits)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.15, color=INK)
    return figure


def _draw_line(axes: Axes, line: Line, panel: Panel) -> list[Artist]:
    values, look = (
        line.values(panel.key, panel.scale, panel.by),
        {"color": line.colour, "linestyle": line.dash, "lw": 1.8},
    )
    if not line.trained:
        return [axes.axhline(fmean([*values.values()][-1]), **look)] if values and panel.train else []
    train = line.values(panel.train, panel.scale) if panel.train else {}
    artists = axes.plot([*train], [*map(fmean, train.values())], color=line.colour, lw=0.8, alpha=0.7)
    mark = {"marker": line.marker, "markersize": 4, "markevery": max(1, ceil(len(values) / 6))}
    artists += axes.plot([*values], [*map(fmean, values.values())], **look, **mark)
    if any(len(each) > 1 for each in values.values()):
        ends = ([*map(end, values.values())] for end in (min, max))
        artists.append(axes.fill_between([*values], *ends, color=line.colour, alpha=0.15, lw=0))
    return artists


def swatch(line: Line) -> Markup:
    """A line as the figures draw it, for the legend."""
    figure = Figure(figsize=(0.5, 0.16))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    drawn = {"color": line.colour, "linestyle": line.dash, "lw": 2, "clip_on": False}
    axes.plot([0, 1, 2], [0, 0, 0], marker=line.marker if line.trained else "", markersize=5, markevery=[1], **drawn)
    return svg(figure, f"swatch {line}", ())


def svg(figure: Figure, salt: str, lines: Sequence[Line]) -> Markup:
    """A figure as SVG for a page. Coordinates are rounded to a tenth of a point. Each line names its method.

    Each figure of a page needs its own `salt`, so that their ids differ.
    """
    file, to_a_tenth = io.StringIO(), lambda found: f"{round(float(found[0]), 1):g}"
    with rc_context(_LOOK | {"svg.hashsalt": ascii(salt)}):
        figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    text = file.getvalue()
    text = re.sub(r">\s+<", "><", text[text.index("<svg") :])
    text = re.sub(r"<defs><style.*?</style></defs>", "", text)  # it would apply to the whole page
    text = re.sub(r' (d|x|y)="[^"]*"', lambda path: re.sub(r"-?\d+\.\d+", to_a_tenth, path[0]), text)
    text = re.sub(r'<g id="line-(\d+)"', lambda g: f'<g data-method="{escape(lines[int(g[1])].method)}"', text)
    return Markup(re.sub(r'<g id="[^"]*"', "<g", text).replace(INK, "currentColor"))


def describe(lines: Sequence[Line], panel: Panel) -> str:
    """A panel in words: the mean over the seeds at each line's first and last epoch."""
    parts = []
    for line in lines:
        means = [f"{fmean(each):.3g}" for each in line.values(panel.key, panel.scale, panel.by).values()]
        if means and (line.trained or panel.train):
            parts.append(f"{line.label} {' to '.join(dict.fromkeys((means[0], means[-1])))}")
    return f"{panel.title}, by {panel.by}; first to last: {'; '.join(parts)}."
