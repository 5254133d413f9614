"""Drawings of a page as SVG of a few elements: a confusion matrix, and how a label mapping changed."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from markupsafe import Markup
from PIL import Image

from tools.common.words import short

FEW = 20  # classes whose cells hold numbers
_NAMED = 130  # classes whose names stand beside the matrix
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D31", "#6A51A3")
_TARGETS, _EPOCHS = 20, 32  # rows and columns of a flow, at most


def web_picture(image: Image.Image, **how) -> str:
    """An image as the data: URL of a WebP picture; `how` as Pillow's `save` takes it."""
    data = io.BytesIO()
    image.save(data, "WEBP", **how)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


def confusion_svg(counts: np.ndarray, names: Sequence[str]) -> Markup:
    """A confusion matrix (T,T), see `RunPredictions.confusion`: each cell is a fraction of its column's images.

    The cells are one picture of T x T pixels with the fraction as its opacity, so it fits light and dark pages.
    """
    number, few = len(names), len(names) <= FEW
    fractions = counts / counts.sum(0).clip(min=1)
    pixels = np.empty((number, number, 4), dtype=np.uint8)
    pixels[..., :3], pixels[..., 3] = (0, 114, 178), (255 * fractions**0.7).round()  # small fractions stay visible
    cell, font = (26, 10) if few else (10, 8)
    words = [short(name, 22) for name in names] if number <= _NAMED else []
    left, side = 8 + 0.62 * font * max(map(len, words), default=0), number * cell
    parts = [
        Markup('<svg viewBox="0 0 {0:.0f} {0:.0f}" font-size="{1}" fill="currentColor">').format(left + side + 2, font),
        Markup('<image x="{0:.1f}" y="{0:.1f}" width="{1}" height="{1}" class="pixels" href="{2}"/>').format(
            left, side, web_picture(Image.fromarray(pixels), lossless=True, exact=True)
        ),
        Markup('<path d="M{0:.1f} {0:.1f}h{1}v{1}h-{1}z" class="frame"/>').format(left, side),
    ]
    centre = Markup(' dominant-baseline="central"')
    for at, text in zip(left + cell * (np.arange(number) + 0.5), words, strict=False):
        name = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="end"{}>{}</text>')
        parts.append(name.format(left - 4, at, centre, text))
        name = Markup('<text transform="translate({:.1f} {:.1f}) rotate(-90)"{}>{}</text>')
        parts.append(name.format(at, left - 4, centre, text))
    for row, column in np.argwhere(fractions >= 0.005) if few else ():
        x, y = (left + cell * (each + 0.5) for each in (column, row))
        shade = Markup(' class="light"') if fractions[row, column] > 0.6 else ""
        value = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="middle"{}{}>{:.0f}</text>')
        parts.append(value.format(x, y, centre, shade, 100 * fractions[row, column]))
    return Markup("").join([*parts, Markup("</svg>")])


def confused_most(counts: np.ndarray, names: Sequence[str], most: int) -> list[str]:
    """The most frequent mistakes in words, by their number of images; of equals the first classes."""
    wrong = counts.T * (1 - np.eye(len(names), dtype=np.int64))  # (true, predicted)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    cells = [divmod(int(cell), len(names)) for cell in order]
    return [f"{names[t]} as {names[p]}: {wrong[t, p]} of {counts[:, t].sum()}" for t, p in cells if wrong[t, p]]


@dataclass(frozen=True)
class Flow:
    """How a label mapping changed: a drawing, and in words what it shows and leaves out."""

    svg: Markup
    text: str


def sources_by_epoch(records: Sequence[dict]) -> list[dict[str, str]]:
    """Target -> source after each epoch, from the entries `new_sources` of log.jsonl."""
    maps: list[dict[str, str]] = []
    for record in records:
        new = record.get("new_sources")
        maps.append((maps[-1] if maps else {}) | (new if isinstance(new, dict) else {}))
    return maps


def flow(records: Sequence[dict]) -> Flow | None:
    """The drawing of a mapping that changed after its first epoch; None where none did, or where the log does not say.

    Each row is a target, each bar the epochs in which it kept a source label. Where one target gives a source label to
    another, a line joins the two bars.
    """
    maps = sources_by_epoch(records)
    if len(maps) < 2 or not maps[0]:
        return None
    targets = list(maps[-1])
    changes = {target: sum(a.get(target) != b.get(target) for a, b in pairwise(maps)) for target in targets}
    moved = sorted((target for target in targets if changes[target]), key=lambda target: -changes[target])
    if not moved:
        return None
    shown = moved[:_TARGETS]
    at = _evenly(len(maps), _EPOCHS)
    text = f"{len(moved)} of {len(targets)} targets changed their source label after the first epoch."
    text += f" Shown are the {len(shown)} that changed most often." if len(shown) < len(moved) else ""
    text += f" Shown are {len(at)} of {len(maps)} epochs." if len(at) < len(maps) else ""
    return Flow(_flow_svg([[maps[epoch].get(target, "none") for epoch in at] for target in shown], shown, at), text)


def _flow_svg(sources: list[list[str]], targets: Sequence[str], epochs: Sequence[int]) -> Markup:
    """Rows of source labels by epoch, with a target each; `epochs` count from 0."""
    left, row, width = 150, 22, 960
    step = (width - left) / len(epochs)
    gap = min(44.0, 0.3 * step)  # between two bars, for the lines
    order = list(dict.fromkeys(source for each in sources for source in each))
    colour = {source: _COLOURS[index % len(_COLOURS)] for index, source in enumerate(order)}
    centre = [row * (y + 0.5) for y in range(len(targets))]
    bars, lines, words = [], [], []
    for y, (target, each) in enumerate(zip(targets, sources, strict=True)):
        name = Markup('<text x="{}" y="{:.0f}" text-anchor="end" dominant-baseline="central">{}</text>')
        words.append(name.format(left - 8, centre[y], short(target, 24)))
        begin = 0
        for source, kept in groupby(each):
            end = begin + len(list(kept))
            x, wide = left + begin * step, (end - begin) * step - gap
            when = f"epoch {epochs[begin] + 1}" + (f" to {epochs[end - 1] + 1}" if end - begin > 1 else "")
            bar = Markup('<rect x="{:.1f}" y="{:.0f}" width="{:.1f}" height="{}" rx="3" fill="{}">')
            bars.append(bar.format(x, centre[y] - row / 2 + 3, wide, row - 6, colour[source]))
            bars.append(Markup("<title>{}: {}, {}</title></rect>").format(target, source, when))
            if wide > 36:
                text = Markup('<text x="{:.1f}" y="{:.0f}" dominant-baseline="central">{}</text>')
                words.append(text.format(x + 4, centre[y], short(source, int((wide - 4) / 6))))
            for other in (z for z, theirs in enumerate(sources) if begin and z != y and theirs[begin - 1] == source):
                line = Markup(
                    '<path d="M{0:.1f} {1:.0f}C{2:.1f} {1:.0f} {2:.1f} {3:.0f} {4:.1f} {3:.0f}" stroke="{5}"/>'
                )
                lines.append(line.format(x - gap, centre[other], x - gap / 2, centre[y], x, colour[source]))
            begin = end
    height = row * len(targets)
    ticks = [
        Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            left + index * step + (step - gap) / 2, height + 14, epochs[index] + 1
        )
        for index in _evenly(len(epochs), 12)
    ]
    head = Markup('<svg viewBox="0 0 {} {}" font-size="10" fill="currentColor" class="flow">').format(
        width, height + 20
    )
    groups = Markup('<g fill-opacity=".32">'), *bars, Markup('</g><g fill="none">'), *lines, Markup("</g>")
    return Markup("").join([head, *groups, *words, *ticks, Markup("</svg>")])


def _evenly(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spaced, the first and the last among them."""
    return sorted({round(each) for each in np.linspace(0, count - 1, min(count, most))})
