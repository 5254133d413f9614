"""Label mappings: which source labels stand for which target label.

All of them are functions of one matrix (S,T): how many training images of each target the network predicts as each
source label (`algorithms/predictions.py` counts them), or another measure of how well two labels fit. A mapping is a
tensor of source labels, (T,) or (T,m) int64, or of weights, (S,T) float32.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

_CHUNK = 65536


def frequency_label_mapping(counts: Tensor, sources: int = 1, former: Tensor | None = None) -> Tensor:
    """The map without a source label twice that follows the counts greedily.

    FLM (Chen et al., CVPR 2023); ILM makes it again every epoch. With several sources a target it is FreqMap of AutoVP
    (Tsao et al., ICLR 2024), or IterMap.

    The largest count of the matrix fixes its (source, target) pair. The source label is removed, and the target too
    once it has all its sources. The next largest count follows, until every target is removed. Ties go to the smallest
    source label, then to the smallest target label. So targets without a count left take the smallest unused sources,
    in order. With a `former` map they first keep their former sources, where these are unused. No paper does this.

    Args:
        counts: (S,T) numbers from 0, S >= T * sources: counts, or masses of probability.
        sources: m, how many source labels each target gets.
        former: (T,) or (T,m) int64, the map before; -1: none.

    Returns:
        (T,) int64, or (T,m) for m > 1 in the order in which the pairs were fixed; no value twice.
    """
    num_source, num_target = counts.shape
    _require_sources(num_source, num_target, sources)
    # Only counts above zero can be ordered by size; nonzero() yields them by (source, target), a stable sort keeps that
    # order among equals. So this is the repeated arg-max, at the cost of one sort of at most N entries for N images.
    pairs = counts.nonzero()
    order = torch.argsort(counts[pairs[:, 0], pairs[:, 1]], descending=True, stable=True)
    mapping: list[list[int]] = [[] for _ in range(num_target)]
    used: set[int] = set()

    def fix(pairs: Iterable[Sequence[int]]) -> None:
        for source, target in pairs:
            if len(mapping[target]) < sources and source not in used:
                mapping[target].append(source)
                used.add(source)

    for some in order.split(_CHUNK):  # masses have S x T entries, and the targets are full long before the last
        fix(pairs[some].tolist())
        if len(used) == num_target * sources:
            break
    if former is not None:
        rows = enumerate(former.reshape(num_target, -1).tolist())
        fix((source, target) for target, row in rows for source in row if source >= 0)
    unused = (source for source in range(num_source) if source not in used)
    for row in mapping:
        row += [next(unused) for _ in range(sources - len(row))]
    return torch.tensor(mapping).squeeze(1)


def semantic_label_mapping(similarities: Tensor, sources: int = 1) -> Tensor:
    """The map by the likeness of names (AutoVP's SemanticMap, Tsao et al., ICLR 2024).

    In each of `sources` rounds the targets, in order, take the most similar source label that is not used yet. Ties go
    to the smallest source label.

    Args:
        similarities: (S,T) float, S >= T * sources, such as cosines of CLIP's text embeddings of the class names.

    Returns:
        (T,) int64, or (T,m) for m > 1 in the order of the rounds; no value twice.
    """
    _require_sources(*similarities.shape, sources)
    left = similarities.clone()
    mapping = torch.empty(similarities.shape[1], sources, dtype=torch.int64)
    for number in range(sources):
        for target in range(len(mapping)):
            mapping[target, number] = left[:, target].argmax()
            left[mapping[target, number]] = -torch.inf
    return mapping.squeeze(1)


def bayesian_label_mapping(counts: Tensor, smoothing: float = 1.0) -> Tensor:
    """Bayesian-guided label mapping (Cai et al., NeurIPS 2024): a weight for each pair of labels.

    From counts of predictions it is BLM. From masses of the 15 % most probable source labels it is BLM+. Each count is
    divided by the sum of its source label's counts plus `smoothing`, so that rare source labels weigh less. Then the
    weights of each target are divided by their sum.

    In the authors' code a target without an image gets NaN.

    Args:
        counts: (S,T) int64, or masses (S,T) float.
        smoothing: the paper's lambda.

    Returns:
        (S,T) float32. Each column sums to 1; the column of a target without any count is zero.
    """
    counts = counts.double()
    rows = counts.sum(1, keepdim=True) + smoothing
    shares = counts / rows.where(rows > 0, 1)
    columns = shares.sum(0)
    return (shares / columns.where(columns > 0, 1)).float()


def reweighting_matrix(counts: Tensor) -> Tensor:
    """The probabilistic reweighting matrix of DVP (Cai et al., ICML 2025): a weight for each sentence of a class.

    A sentence's weight is its part of the counts of its class. At the start, and for a class that no image has counted
    for, all sentences weigh the same. In the authors' code such a class gets NaN.

    Args:
        counts: (S,T) int64, zero but where a sentence is one of the class. The sentences of class t are the S/T source
            labels from t * S/T on.

    Returns:
        (S,T) float32; each column sums to 1.
    """
    num_target = counts.shape[1]
    own = torch.arange(len(counts), device=counts.device) * num_target // len(counts)
    counts = counts.double()
    uniform = torch.zeros_like(counts).scatter_(1, own[:, None], num_target / len(counts))
    sums = counts.sum(0)
    return torch.where(sums > 0, counts / sums.where(sums > 0, 1), uniform).float()


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
    _require_sources(num_source, num_target)
    return torch.randperm(num_source, generator=generator)[:num_target]


def _require_sources(num_source: int, num_target: int, sources: int = 1) -> None:
    if num_source < num_target * sources:
        raise ValueError(f"{num_target} target labels cannot have {sources} source labels each out of {num_source}")


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


def most_varied_features(features: Tensor, num_target: int) -> Tensor:
    """The T features with the largest standard deviation over images, in ascending order (DAM-VP, CVPR 2023).

    Which class gets which feature has no meaning: DAM-VP's prompts learn it.

    Args:
        features: (N,S), of noise in DAM-VP; S is at least T.

    Returns:
        (T,) int64. Of equal deviations the first.
    """
    deviations = features.std(0, correction=0)
    return deviations.sort(descending=True, stable=True).indices[:num_target].sort().values


def name_changes(
    before: Tensor, after: Tensor, source_names: Sequence[str], target_names: Sequence[str]
) -> dict[str, str]:
    """Target name -> name of its new strongest source label, of the targets for which it changed.

    Args:
        before, after: (T,m) int64, the source labels of each target, the strongest first; -1: none.
    """
    strongest = zip(target_names, before[:, 0].tolist(), after[:, 0].tolist(), strict=True)
    return {target: source_names[new] if new >= 0 else "none" for target, old, new in strongest if new != old}
