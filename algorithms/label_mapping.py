"""Label mappings: which source label stands for which target label (ILM-VP, CVPR 2023, Section 4).

A mapping is a tensor (T,) int64: entry t is the source label of target t. All of them are functions of one matrix of
counts (S,T): how many training images of target t the network takes for source s.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from algorithms.distributed import all_sum, rank


@torch.no_grad()
def count_predictions(
    source_logits: Callable[[Tensor], Tensor], loader: Iterable[tuple[Tensor, Tensor]], num_source: int, num_target: int
) -> Tensor:
    """Counts arg-max source predictions of each target's images; no logits are kept.

    Args:
        source_logits: images (B,3,h,w) -> (B,S).
        loader: batches of images and target labels (B,) int64.

    Returns:
        (S,T) int64 on the CPU.
    """
    counter = PredictionCounter(num_source, num_target)
    for images, labels in loader:
        if len(labels):  # of a small batch, one of several processes may have no image
            counter.add(source_logits(images), labels)
    return counter.total()


class PredictionCounter:
    """The (S,T) count matrix, filled batch by batch.

    As a forward hook on a network (`watch`) it sees the source logits of passes that are made anyway; the loop then
    calls it with the batch's labels. What it has counted can be saved: a run may stop between counting and mapping.
    """

    def __init__(self, num_source: int, num_target: int):
        self._shape = num_source, num_target
        self._counts: Tensor | None = None  # made with the first batch: it is large for CLIP's text prompts
        self._latest: Tensor | None = None
        self._watches = False

    def total(self) -> Tensor:
        """The counts of all processes of this run, (S,T) int64 on the CPU; all of them must ask."""
        return all_sum(self._zeros("cpu") if self._counts is None else self._counts.cpu())

    def _zeros(self, device: torch.device | str) -> Tensor:
        return torch.zeros(self._shape, dtype=torch.int64, device=device)

    def add(self, source_logits: Tensor, labels: Tensor) -> None:
        if self._counts is None:
            self._counts = self._zeros(labels.device)
        one = torch.ones((), dtype=torch.int64, device=labels.device)
        self._counts.index_put_((source_logits.argmax(1), labels), one, accumulate=True)

    def watch(self, network: nn.Module) -> "PredictionCounter":
        """Keeps the latest source logits of `network` until the loop gives their labels."""
        self._watches = True
        network.register_forward_hook(lambda _module, _inputs, logits: setattr(self, "_latest", logits.detach()))
        return self

    def __call__(self, labels: Tensor) -> None:
        """Counts the latest logits of the watched network, if it watches one."""
        if self._latest is not None:
            self.add(self._latest, labels)

    def take(self) -> Tensor:
        """The counts so far, (S,T) int64 on the CPU; counting starts anew."""
        counts, self._counts = self._so_far(), None
        return counts

    def _so_far(self) -> Tensor:
        """`total`, but the others are not asked where there is nothing to count: the matrix is large."""
        return self.total() if self._watches or self._counts is not None else self._zeros("cpu")

    def state_dict(self) -> dict[str, Tensor]:
        """The counts above zero, at most one an image: `pairs` (K,2) of source and target, `counts` (K,)."""
        counts = self._so_far()
        pairs = counts.nonzero()
        return {"pairs": pairs, "counts": counts[pairs[:, 0], pairs[:, 1]]}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes up saved counts: in the first process alone, for they are those of all."""
        pairs, counts = state["pairs"], state["counts"]
        mine = len(pairs) > 0 and rank() == 0
        self._counts = self._zeros(pairs.device).index_put_(tuple(pairs.T), counts) if mine else None


def frequency_label_mapping(counts: Tensor) -> Tensor:
    """The one-to-one map that follows the counts greedily (FLM, Chen et al. 2023; made again every epoch it is ILM).

    The largest count of the matrix fixes its (source, target) pair, both are struck out, and so on until every target
    has a source of its own. Ties go to the smallest source label, then to the smallest target label; targets without
    a count left therefore take the smallest unused sources in order.

    Args:
        counts: (S,T) int64, S >= T.

    Returns:
        (T,) int64, no value twice.
    """
    num_source, num_target = counts.shape
    if num_source < num_target:
        raise ValueError(f"{num_target} target labels cannot have a source label each out of {num_source}")
    # Only counts above zero can be ordered by size; nonzero() yields them by (source, target), a stable sort keeps that
    # order among equals. So this is the repeated arg-max, at the cost of one sort of at most N entries for N images.
    pairs = counts.nonzero()
    order = torch.argsort(counts[pairs[:, 0], pairs[:, 1]], descending=True, stable=True)
    mapping = [-1] * num_target
    used = set()
    for source, target in pairs[order].tolist():
        if mapping[target] < 0 and source not in used:
            mapping[target] = source
            used.add(source)
    unused = (source for source in range(num_source) if source not in used)
    return torch.tensor([next(unused) if source < 0 else source for source in mapping])


def majority_label_mapping(counts: Tensor) -> Tensor:
    """The many-to-one map of EVP's non-CLIP models (TMLR 2024): each target's most frequent source label.

    Ties go to the smallest source label, so a target without predictions gets source label 0.

    Args:
        counts: (S,T) int64.

    Returns:
        (T,) int64; several targets may share a source label, and the classifier cannot tell these apart.
    """
    return counts.argmax(0)


def random_label_mapping(num_source: int, num_target: int, generator: torch.Generator) -> Tensor:
    """A one-to-one map drawn at random (RLM): (T,) int64 in [0,S), no value twice; S >= T."""
    if num_source < num_target:
        raise ValueError(f"{num_target} target labels cannot have a source label each out of {num_source}")
    return torch.randperm(num_source, generator=generator)[:num_target]


def describe_mapping(counts: Tensor, mapping: Tensor) -> dict[str, float]:
    """What a map made from counts of predictions is worth, for an epoch's record.

    Args:
        counts: (S,T) int64, what the mapping was made from.
        mapping: (T,) int64.

    Returns:
        `targets_without_predictions`: how many targets hold a source label that not one of their images was predicted
        as, an arbitrary choice. When the network's predictions collapse to few source labels this number grows, and
        the map says nothing.
        `mapping_precision`: of the images predicted as a source label that the map uses, the share in [0,1] that are
        of a target it stands for; 0 where there is no such image.
    """
    own = counts[mapping, torch.arange(len(mapping))]
    used = int(counts[mapping.unique()].sum())
    return {"targets_without_predictions": int((own == 0).sum()), "mapping_precision": int(own.sum()) / max(used, 1)}
