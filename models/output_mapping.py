"""Output mappings: source logits (B,S) -> target logits (B,T). The output side of reprogramming, as modules.

All of them have
    `set(...)`       sets the mapping; returns the fraction of targets, in [0,1], whose strongest source label changed;
    `sources`        (T,m) int64, the source labels that make a target's logit, or the strongest of them; -1: not set;
    `named(...)`     the mapping in words;
    `changed`        what `set` returned last, None before.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import UserError
from models.part import Part


class SelectLabels(Part):
    """A target's logit is one source logit, or the mean of `num_sources` of them.

    The mapping of ILM-VP (Chen et al., CVPR 2023), EVP (Wu et al., TMLR 2024), and with several source labels AutoVP's
    FreqMap (Tsao et al., ICLR 2024).

    Args:
        num_target: T.
        num_sources: m, how many source labels a target has.

    State: `index` (T,) int64, or (T,m) for m > 1; -1 until `set`.
    """

    def __init__(self, num_target: int, num_sources: int = 1):
        super().__init__()
        self.num_target, self.changed = num_target, None
        self.register_buffer("index", torch.full((num_target, num_sources), -1).squeeze(1))

    def forward(self, source_logits: Tensor) -> Tensor:
        selected = source_logits[:, self.index]
        return selected if self.index.ndim == 1 else selected.mean(2)

    @property
    def sources(self) -> Tensor:
        return self.index.reshape(self.num_target, -1)

    def set(self, index: Tensor) -> float:
        """Replaces the mapping by `index`, (T,) or (T,m) int64 as in the state."""
        if int(index.min()) < 0:
            asked = "mapping.set takes source labels, which count from 0."
            raise UserError(asked, f"The smallest is {int(index.min())}.", "Choose a source label for every target.")
        before = self.sources.clone()
        self.index.copy_(_of_shape(index, self.index.shape))
        return _set(self, before)

    def named(self, source_names: Sequence[str], target_names: Sequence[str]) -> dict[str, str]:
        """Target name -> source name, or the names of all its sources."""
        words = (", ".join(source_names[source] for source in row) for row in self.sources.tolist())
        return dict(zip(target_names, words, strict=True))


class WeightLabels(Part):
    """A target's logit is a weighted sum of all source logits: logits @ weight, with weights that do not learn.

    The mapping of Bayesian-guided label mapping (Cai et al., NeurIPS 2024).

    Args:
        num_source: S.
        num_target: T.

    State: `weight` (S,T) float32, zero until `set`.
    """

    def __init__(self, num_source: int, num_target: int):
        super().__init__()
        self.num_target, self.changed = num_target, None
        self.register_buffer("weight", torch.zeros(num_source, num_target))

    def forward(self, source_logits: Tensor) -> Tensor:
        return source_logits @ self.weight

    @property
    def sources(self) -> Tensor:
        return _strongest(self.weight)

    def set(self, weight: Tensor) -> float:
        """Replaces the mapping by `weight`, (S,T)."""
        before = self.sources
        self.weight.copy_(_of_shape(weight, self.weight.shape))
        return _set(self, before)

    def named(self, source_names: Sequence[str], target_names: Sequence[str]) -> dict[str, str]:
        """Target name -> the names of its strongest sources, each with its weight."""
        return _named_weights(self.weight, source_names, target_names)


class LinearLabels(Part):
    """A linear layer from source to target logits, which learns (AutoVP's FullyMap, Tsao et al., ICLR 2024).

    Args:
        num_source: S.
        num_target: T.
        identity: True: the weight starts with weight[t,t] = 1 and zero elsewhere. This is for CLIP, whose first T
            source labels are the classes in the first template. False: the weight starts as torch initialises a linear
            layer. The bias starts so in both cases, as in AutoVP's code.

    State: `layer.weight` (T,S) and `layer.bias` (T,) float32.
    """

    def __init__(self, num_source: int, num_target: int, identity: bool = False):
        super().__init__()
        self.num_target, self.changed = num_target, None
        self.layer = nn.Linear(num_source, num_target)
        if identity:
            nn.init.eye_(self.layer.weight)

    def forward(self, source_logits: Tensor) -> Tensor:
        return self.layer(source_logits)

    @property
    def sources(self) -> Tensor:
        return _strongest(self.layer.weight.detach().T)

    @torch.no_grad()
    def set(self, weight: Tensor) -> float:
        """Replaces the layer's weight by `weight`, (S,T), and its bias by zero."""
        before = self.sources
        self.layer.weight.copy_(_of_shape(weight, self.layer.weight.T.shape).T)
        self.layer.bias.zero_()
        return _set(self, before)

    def named(self, source_names: Sequence[str], target_names: Sequence[str]) -> dict[str, str]:
        """Target name -> the names of its strongest sources, each with its weight."""
        return _named_weights(self.layer.weight.detach().T, source_names, target_names)


def one_to_one(num_target: int) -> SelectLabels:
    """Target t has the source label t, as on CLIP with one text prompt a class."""
    mapping = SelectLabels(num_target)
    mapping.set(torch.arange(num_target))
    return mapping


def empty_mapping(kind: str, num_source: int, num_target: int, num_sources: int = 1) -> Part:
    """The output mapping that a rule of `algorithms/mapping_rules.py` fits; not set yet.

    Args:
        kind: `index` (SelectLabels), `weights` (WeightLabels) or `linear` (LinearLabels, which starts as torch does).
        num_source, num_target: S and T.
        num_sources: m, how many source labels a target has; of `index` alone.
    """
    if kind == "index":
        return SelectLabels(num_target, num_sources)
    return {"weights": WeightLabels, "linear": LinearLabels}[kind](num_source, num_target)


def _of_shape(value: Tensor, shape: torch.Size) -> Tensor:
    """The value; a UserError where it has another shape, which copying might silently repeat."""
    if value.shape != shape:
        found = f"It has the shape {tuple(value.shape)}."
        raise UserError(f"mapping.set takes a tensor of the shape {tuple(shape)}.", found, "Transpose or select.")
    return value


def _set(mapping: Part, before: Tensor) -> float:
    """Sets `changed` to the fraction of targets whose strongest source is not the one in `before`, and returns it."""
    different = int((mapping.sources[:, 0] != before[:, 0]).sum())
    mapping.changed = different / mapping.num_target
    return mapping.changed


def _strongest(weight: Tensor) -> Tensor:
    """(S,T) -> (T,1): the source label of the largest weight, the first of equals; -1 where no weight is above 0."""
    largest, source = F.pad(weight, (0, 0, 1, 0)).max(0)  # the row of zeros wins where no weight is above 0
    return torch.where(largest > 0, source - 1, -1)[:, None]


def _named_weights(
    weight: Tensor, source_names: Sequence[str], target_names: Sequence[str], most: int = 3
) -> dict[str, str]:
    weights, sources = weight.T.sort(dim=1, descending=True, stable=True)
    words = {}
    for target, row, own in zip(target_names, sources[:, :most].tolist(), weights[:, :most].tolist(), strict=True):
        named = [f"{source_names[source]} ({value:.2f})" for source, value in zip(row, own, strict=True) if value > 0]
        words[target] = ", ".join(named) or "no source class"
    return words
