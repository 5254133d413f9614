"""Clusters of vectors, such as the features of images, or the embeddings of sentences; by scikit-learn."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from errors import UserError


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
    from sklearn.cluster import AgglomerativeClustering  # late: --help need not wait

    numbers = torch.zeros(len(features), dtype=torch.int64)
    if len(features) > 1:
        until = {"n_clusters": count and min(count, len(features)), "distance_threshold": None if count else threshold}
        numbers = torch.from_numpy(AgglomerativeClustering(linkage="average", **until).fit_predict(features.numpy()))
    members = torch.stack([numbers == number for number in dict.fromkeys(numbers.tolist())])  # (n,N)
    sizes = members.sum(1)
    return members.to(features.dtype) @ features / sizes[:, None], sizes


def k_means(vectors: Tensor, clusters: int) -> Tensor:
    """The number of each vector's cluster, (N,) int64 from 0 on the CPU, of vectors (N,D).

    The seed is 0, and the best of 10 starts is taken. Both are fixed here, since scikit-learn 1.4 changed its number of
    starts.

    Raises:
        UserError: there are fewer different vectors than clusters.
    """
    from sklearn.cluster import KMeans  # late: DVP with --causes does not need it

    vectors = vectors.detach().cpu()
    if (different := len(vectors.unique(dim=0))) < clusters:
        raise UserError(
            f"--clusters {clusters}: so many different sentences are needed.",
            f"There are {different}.",
            "Choose fewer --clusters, or more --descriptions.",
        )
    labels = KMeans(clusters, n_init=10, random_state=0).fit_predict(vectors.numpy())
    return torch.from_numpy(labels).long()
