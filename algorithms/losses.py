"""Losses of target logits (B,T) and labels (B,), summed over the images.

A loss that needs more than the logits is an object with `of_images(model, images, labels)`, which gives the loss and
the target logits. Then training has no source logits to observe.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="sum")


def focal_loss(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """(1 - p)^gamma times the cross-entropy, p the label's probability (Lin et al., ICCV 2017); BAR's loss."""
    each = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - (-each).exp()) ** gamma * each).sum()


def kl_divergence(logits: Tensor, probabilities: Tensor) -> Tensor:
    """KL(t || softmax(logits)) of probabilities t, (B,T) as the logits, in place of labels; AReS's loss (CVPR 2026)."""
    return F.kl_div(logits.log_softmax(1), probabilities, reduction="sum")
