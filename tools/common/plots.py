"""The figures of a run: matplotlib objects, drawn without a screen."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tools.common.files import write_whole
from tools.common.words import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 10  # targets in a heat map


def _figure(**how) -> "Figure":
    """A figure without a screen. matplotlib is imported when the first one is drawn."""
    from matplotlib.figure import Figure

    return Figure(layout="constrained", **how)


def save(figure: "Figure", file: Path) -> Path:
    """Writes a PNG and returns where it is."""
    write_whole(file, lambda temporary: figure.savefig(temporary, dpi=110))
    return file


def mapping_figure(
    counts: Tensor,
    sources: Tensor,
    confused: Tensor,
    source_names: Sequence[str],
    target_names: Sequence[str],
    most: int = _MOST,
) -> "Figure":
    """For the first `most` targets: what their images are predicted as, over all source labels and among the targets.

    On the left cell (i, j) is the fraction of the images of target j that the network predicts as a source label of
    target i; the last row holds all other source labels. On the right it is the fraction that the mapping predicts as
    target i; the last row holds the targets that are not shown. So the right diagonal is each target's accuracy.

    Args:
        counts: (S,T) int64, how many images of each target are predicted as each source label.
        sources: (T,m) int64, the source labels of each target; -1: none.
        confused: (T,T) int64, how many images of each target (second axis) are predicted as each target (first axis).
            Of all three, columns and rows of targets after the first `most` may be left out.
    """
    shown = min(most, len(sources))
    sources = sources[:shown]
    chosen = counts[sources.clamp(min=0), :shown] * (sources >= 0)[..., None]  # (shown, m, shown)
    totals = counts[:, :shown].sum(0)
    labels = [short(", ".join(source_names[s] for s in own if s >= 0)) for own in sources.tolist()] + ["(any other)"]
    targets = [short(name) for name in target_names[:shown]]
    figure = _figure(figsize=(4.2 + 1.04 * shown, 2.4 + 0.42 * shown))
    panels = {
        f"Most probable of all {len(source_names)} source labels": chosen.sum(1),
        f"Most probable of the {len(target_names)} targets: what accuracy counts": confused[:shown, :shown],
    }
    grid = figure.subplots(1, 2, sharey=True)
    for axes, (title, rows) in zip(grid, panels.items(), strict=True):
        image = _fractions(axes, torch.cat([rows, (totals - rows.sum(0)).clamp(min=0)[None]]) / totals.clamp(min=1))
        axes.set_xticks(range(shown), targets, rotation=40, ha="right", parse_math=False)
        axes.set_title(title, fontsize=9)
    grid[0].set_yticks(range(shown + 1), labels, parse_math=False)
    grid[0].set_ylabel("predicted, by source label")
    figure.supxlabel(f"target class of the test images, {shown} of {len(target_names)}", fontsize=10)
    figure.colorbar(image, ax=grid, label="fraction of the target's images")
    return figure


def _fractions(axes, fractions: Tensor):
    """Draws values (rows, columns) in [0,1] as colours with numbers; returns the image for a colour bar."""
    image = axes.imshow(fractions.numpy(), vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for i, j in (fractions >= 0.005).nonzero().tolist():
        colour = "white" if fractions[i, j] > 0.6 else "black"
        axes.text(j, i, f"{fractions[i, j]:.2f}", ha="center", va="center", fontsize=7, color=colour)
    return image


def prompt_figure(images: Tensor) -> "Figure":
    """Prompted examples as the network sees them, in a row: images (N,3,H,W) in [0,1]; values outside are clipped."""
    figure = _figure(figsize=(2.6 * len(images), 2.6))
    for axes, image in zip(figure.subplots(1, len(images), squeeze=False)[0], images, strict=True):
        axes.imshow(image.clamp(0, 1).permute(1, 2, 0).numpy())
        axes.axis("off")
    return figure


def sheet_figure(images: Sequence, captions: Sequence[str], columns: int = 6) -> "Figure":
    """A contact sheet: pictures as matplotlib shows them (images of PIL, say), row by row, each with its caption."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = _figure(figsize=(2 * columns, 2.4 * rows))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set(xticks=[], yticks=[], frame_on=False)
        axes.set_box_aspect(1)  # narrow pictures stand in the middle of a square
    for axes, image, caption in zip(grid, images, captions, strict=False):  # the last row may have room left
        axes.imshow(image)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel(caption, fontsize=6, parse_math=False)
    return figure


def curves_figure(records: Sequence[dict]) -> "Figure":
    """Accuracy and loss by epoch, one curve a split, from the records of log.jsonl."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(figsize=(9, 3.6))
    epochs = [record["epoch"] for record in records]
    for axes, metric, label in zip(figure.subplots(1, 2), ("acc", "loss"), ("accuracy", "loss"), strict=True):
        for split in ("train", "val", "test"):
            if f"{split}_{metric}" in records[-1]:
                values = [record[f"{split}_{metric}"] for record in records]
                axes.plot(epochs, values, label=split, marker="." if len(epochs) < 30 else None)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def reliability_figure(panels: Mapping[str, Sequence[dict]]) -> "Figure":
    """Reliability diagrams side by side: the accuracy of the images in each bin of confidence, beside the diagonal.

    Args:
        panels: title -> bins of equal width from 0 to 1, each with its `accuracy`, None without an image, and its
            number of `images`.
    """
    figure = _figure(figsize=(3.6 * len(panels), 3.6))
    for axes, (title, bins) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        images = sum(one["images"] for one in bins)
        for number, one in enumerate(bins):
            if one["images"]:  # the darker a bar, the more images
                look = {"color": "tab:blue", "alpha": 0.25 + 0.75 * one["images"] / images, "align": "edge"}
                axes.bar(number / len(bins), one["accuracy"], 1 / len(bins), **look)
        axes.plot([0, 1], [0, 1], color="black", lw=0.8, linestyle="--")
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="accuracy")
        axes.set_title(title, fontsize=9)
    return figure


class HeatMap:
    """The figure of the map. It notes what there is to show after every epoch, and draws what it noted last.

    Args:
        model: has `mapping`.
        counter: its `take().counts` are the test predictions since the last call, (S,T) int64.
    """

    def __init__(self, model, counter, source_names: Sequence[str], target_names: Sequence[str]):
        self._model, self._counter, self._names = model, counter, (source_names, target_names)

    def note(self, confused: Tensor) -> None:
        """Notes the map, the counter's predictions and the confusion matrix (T,T). All processes must call it."""
        counts, sources = self._counter.take().counts, self._model.mapping.sources
        self._noted = counts[:, :_MOST].clone(), sources[:_MOST].cpu().clone(), confused[:_MOST, :_MOST].clone()

    def __call__(self) -> "Figure":
        return mapping_figure(*self._noted, *self._names)


def prompted_figures(
    model, counter, examples: Tensor, source_names: Sequence[str], target_names: Sequence[str]
) -> dict[str, Callable[[], "Figure"]]:
    """A prompted model's figures by name: `mapping`, a HeatMap, and `prompt` if the prompt learns.

    Args:
        model: has `prompt`, `mapping` and `seen`.
        counter: as `HeatMap` takes it.
        examples: images (N,3,h,w) in [0,1], on the model's device.
    """

    def prompt() -> "Figure":
        model.prompt.eval()  # the training of an epoch may have been stopped half way
        return prompt_figure(model.seen(examples).cpu())

    mapping = HeatMap(model, counter, source_names, target_names)
    return {"mapping": mapping, **({"prompt": prompt} if list(model.prompt.parameters()) else {})}
