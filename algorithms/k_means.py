"""k-means, by scikit-learn: which of a few clusters each vector lies in."""

import torch
from torch import Tensor

from errors import UserError


def k_means(vectors: Tensor, clusters: int) -> Tensor:
    """The number of each vector's cluster, (N,) int64 from 0 on the CPU, of vectors (N,D).

    The seed is 0, and the best of 10 starts is taken. Both are fixed here, since scikit-learn 1.4 changed its number of
    starts.

    Raises:
        UserError: there are fewer different vectors than clusters.
    """
    from sklearn.cluster import KMeans  # slow to import; few methods need it

    vectors = vectors.detach().cpu()
    if (different := len(vectors.unique(dim=0))) < clusters:
        raise UserError(
            f"--clusters {clusters}: so many different sentences are needed.",
            f"There are {different}.",
            "Choose fewer --clusters, or more --descriptions.",
        )
    labels = KMeans(clusters, n_init=10, random_state=0).fit_predict(vectors.numpy())
    return torch.from_numpy(labels).long()
