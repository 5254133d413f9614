"""Label mappings: which source label stands for which target label (ILM-VP, CVPR 2023, Section 4).

A mapping is a tensor (T,) int64: entry t is the source label of target t. All of them are functions of one matrix of
counts (S,T): how many training images of target t the network predicts as source s.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from algorithms.distributed import all_sum, rank


@torch.no_grad()
def count_predictions(
    source_logits: Callable[[Tensor], Tensor], loader: Iterable[tuple[Tensor, Tensor]], num_source: int, num_target: int
) -> Tensor:
    """Counts the arg-max source predictions for each target's images. No logits are stored.

    Args:
        source_logits: images (B,3,h,w) -> (B,S).
        loader: batches of images and target labels (B,) int64.

    Returns:
        (S,T) int64 on the CPU.
    """
    counter = PredictionCounter(num_source, num_target)
    for images, labels in loader:
        if len(labels):  # one of several processes may have no image of a small batch
            counter(source_logits(images), labels)
    return counter.take()


class PredictionCounter:
    """The (S,T) count matrix, filled batch by batch.

    The training loop calls it with the source logits of passes that it makes anyway. The counts can be saved, since a
    run may stop between counting and mapping.
    """

    def __init__(self, num_source: int, num_target: int):
        self._shape = num_source, num_target
        self._counts: Tensor | None = None  # made with the first batch: it is large for CLIP's text prompts

    def __call__(self, source_logits: Tensor, labels: Tensor) -> None:
        """Counts the predictions of a batch, (B,S) and (B,) int64."""
        if self._counts is None:
            self._counts = torch.zeros(self._shape, dtype=torch.int64, device=labels.device)
        cells = source_logits.argmax(1) * self._shape[1] + labels
        self._counts.view(-1).scatter_add_(0, cells, torch.ones_like(cells))

    def take(self) -> Tensor:
        """The counts of all processes so far, (S,T) int64 on the CPU. Counting then starts again from zero.

        All processes must call it.
        """
        counts, self._counts = self.total(), None
        return counts

    def total(self) -> Tensor:
        """Like `take`, but the counts are kept."""
        return all_sum(torch.zeros(self._shape, dtype=torch.int64) if self._counts is None else self._counts.cpu())

    def state_dict(self) -> dict[str, Tensor]:
        """The counts above zero, at most one for each image: `pairs` (K,2) of source and target, `counts` (K,)."""
        counts = self.total()
        pairs = counts.nonzero()
        return {"pairs": pairs, "counts": counts[pairs[:, 0], pairs[:, 1]]}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Loads saved counts, in the first process only: they are the counts of all processes."""
        pairs, counts = state["pairs"], state["counts"]
        self._counts = None
        if len(pairs) > 0 and rank() == 0:
            self._counts = torch.zeros(self._shape, dtype=torch.int64).index_put_(tuple(pairs.T), counts)


def frequency_label_mapping(counts: Tensor) -> Tensor:
    """The one-to-one map that follows the counts greedily (FLM, Chen et al. 2023; ILM makes it again every epoch).

    The largest count of the matrix fixes its (source, target) pair. Both labels are removed, and the next largest count
    follows, until every target has a source of its own. Ties go to the smallest source label, then to the smallest
    target label. So targets without a count left take the smallest unused sources, in order.

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


def describe_mapping(counts: Tensor, sources: Tensor) -> dict[str, float]:
    """How well a mapping fits the counts that it was made from, for an epoch's record.

    Args:
        counts: (S,T) int64, what the mapping was made from.
        sources: (T,m) int64, the source labels of each target; -1: none.

    Returns:
        `targets_without_predictions`: the number of targets none of whose images is predicted as one of their source
        labels. These source labels are arbitrary. The number grows when predictions collapse to few source labels.
        `mapping_precision`: among the images that are predicted as a source label of the mapping, the fraction in [0,1]
        whose target has this source label. 0 where there is no such image.
    """
    own = (counts.gather(0, sources.T.clamp(min=0)) * (sources.T >= 0)).sum(0)
    used = int(counts[sources[sources >= 0].unique()].sum())
    return {"targets_without_predictions": int((own == 0).sum()), "mapping_precision": int(own.sum()) / max(used, 1)}
