"""The figures of a run: which it has, and when they are drawn."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from tools.common import plots

_SECONDS_BETWEEN_MAPS = 30  # drawing one may take longer than an epoch


class Figures:
    """Curves at the end; of a prompted model the map now and then, map and prompt at the end. PNG files in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._prompted: dict[str, Callable] = {}
        self._map_is_drawn, self._drawn_at = True, -float("inf")

    def of_prompted(self, model, target_names: Sequence[str], examples, counter) -> None:
        """Asks for the figures of a prompted model, as `plots.prompted_figures` takes it."""
        self._prompted = plots.prompted_figures(model, counter, examples, model.network.class_names, target_names)

    def draw_map(self, confused: Tensor, is_last: bool) -> list[Path]:
        """Draws the heat map, if there is one, after the last epoch, and else if the last drawing was long ago.

        Args:
            confused: the confusion matrix of the test images, (T,T) int64.
        """
        if "mapping" not in self._prompted:
            return []
        self._prompted["mapping"].note(confused)
        self._map_is_drawn = is_last or time.monotonic() - self._drawn_at >= _SECONDS_BETWEEN_MAPS
        if not self._map_is_drawn:
            return []
        self._drawn_at = time.monotonic()
        return [self._draw("mapping", self._prompted["mapping"])]

    def draw_at_end(self, records: Sequence[dict]) -> None:
        """Draws all figures but a map that is drawn already. `records` are the epochs, for the curves."""
        for name, draw in (self._prompted | {"curves": lambda: plots.curves_figure(records)}).items():
            if name != "mapping" or not self._map_is_drawn:
                self._draw(name, draw)

    def _draw(self, name: str, draw: Callable) -> Path:
        return plots.save(draw(), self.folder / f"{name}.png")
