"""The table of label mappings that `--mapping` chooses from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from algorithms.label_mapping import bayesian_label_mapping, frequency_label_mapping, random_label_mapping

_AGAIN = ("mapping_interval", "mapping_source")


@dataclass(frozen=True)
class Rule:
    """How a mapping is made, and when.

    Args:
        make: (S,T) counts or masses, the flags (`sources`, `seed`, `unpredicted`), and the sources (T,m) of the map
            before (-1: none) -> what the output mapping's `set` takes. None: no predictions make this mapping. It
            learns, or the script makes it.
        kind: the output mapping that it fits: `index`, `weights` or `linear` (`models.output_mapping.empty_mapping`).
        flags: the names of the flags that it heeds, of those that only some mappings heed.
        counted: False: `make` gets a tensor (S,T) on the device `meta`, which has no values. Nothing is counted.
        top: the number of targets T -> how many most probable source labels count their probabilities. None: the most
            probable one counts 1, or what --mapping-counts says.
    """

    make: Callable[[Tensor, Any, Tensor], Tensor] | None = None
    kind: str = "index"
    flags: tuple[str, ...] = ()
    counted: bool = True
    top: Callable[[int], int] | None = None

    @property
    def again(self) -> bool:
        """Whether the mapping is made again while the prompt learns, or once, before the first epoch."""
        return set(_AGAIN) <= set(self.flags)


def top_fraction(num_target: int, fraction: float = 0.15) -> int:
    """BLM+'s k: this fraction of T source labels, at least one."""
    return max(1, int(fraction * num_target))


def _random(counts: Tensor, flags: Any, former: Tensor) -> Tensor:
    return random_label_mapping(*counts.shape, torch.Generator().manual_seed(flags.seed))


def _frequency(counts: Tensor, flags: Any, former: Tensor) -> Tensor:
    return frequency_label_mapping(counts, flags.sources, former if flags.unpredicted == "keep" else None)


def _bayesian(counts: Tensor, flags: Any, former: Tensor) -> Tensor:
    return bayesian_label_mapping(counts)


MAPPINGS = {
    "rlm": Rule(_random, counted=False),
    "flm": Rule(_frequency, flags=("mapping_counts", "sources")),
    "ilm": Rule(_frequency, flags=("mapping_counts", "sources", "unpredicted", *_AGAIN)),
    "blm": Rule(_bayesian, "weights", flags=("mapping_counts", *_AGAIN)),
    "blmp": Rule(_bayesian, "weights", flags=_AGAIN, top=top_fraction),
}
MORE_MAPPINGS = {  # only of scripts that make them, or let them learn
    "semantic": Rule(flags=("sources", "clip_model", "pretrained", "clip_config", "preprocess")),
    "full": Rule(kind="linear"),
    "lp": Rule(kind="linear"),
}
ALL_MAPPINGS = MAPPINGS | MORE_MAPPINGS
