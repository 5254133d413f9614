"""Clusters of images by their features."""

from collections.abc import Callable, Iterable

import torch
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor


def first_features(encode: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]], most: int) -> Tensor:
    """(N,D) on the CPU: what `encode` makes of the first images of the batches, N at most `most`.

    What is drawn here, such as the order of the images, leaves torch's generator as it was.
    """
    features: list[Tensor] = []
    with torch.random.fork_rng(devices=[]):
        for images, _ in batches:
            features.append(encode(images).cpu())
            if sum(map(len, features)) >= most:
                break
    return torch.cat(features)[:most]


def cluster_means(
    features: Tensor, *, threshold: float | None = None, count: int | None = None
) -> tuple[Tensor, Tensor]:
    """Clusters by average linkage: the two that are nearest, by the mean distance of their members, become one.

    Args:
        features: (N,D).
        threshold: until the nearest two are as far apart as this; or
        count: until so many are left, at most N.

    Returns:
        The means (n,D) of the clusters, in the order of their first members, and (n,) int64, how many members each has.
    """
    numbers = torch.zeros(len(features), dtype=torch.int64)
    if len(features) > 1:
        until = {"n_clusters": count and min(count, len(features)), "distance_threshold": None if count else threshold}
        numbers = torch.from_numpy(AgglomerativeClustering(linkage="average", **until).fit_predict(features.numpy()))
    members = torch.stack([numbers == number for number in dict.fromkeys(numbers.tolist())])  # (n,N)
    sizes = members.sum(1)
    return members.to(features.dtype) @ features / sizes[:, None], sizes
