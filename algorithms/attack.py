"""Adversarial images: projected gradient descent within an L-infinity ball."""

from collections.abc import Callable

import torch
from torch import Tensor


def pgd(
    loss: Callable[[Tensor], Tensor], images: Tensor, *, eps: float, steps: int, step_size: float | None = None
) -> Tensor:
    """Images near the given ones with a larger loss: PGD (Madry et al., ICLR 2018, section 2.1) with a random start.

    No pixel moves by more than `eps`, and none leaves [0,1]. Both hold exactly, in spite of rounding. The start is
    drawn from PyTorch's generator of the CPU, on any device.

    Args:
        loss: images (B,...) -> the loss of each image (B,), or their sum. It is differentiated by the images alone:
            gradients of weights are neither computed nor changed. Images must not act on each other's loss.
        images: (B,...) float32 or float64 in [0,1].
        eps: largest change of a pixel, in [0,1]; 0 gives the images back.
        steps: how many steps follow the random start, each with one gradient.
        step_size: how far a pixel moves in a step; None: 2.5 eps / steps, with which a pixel gets from any start to any
            end of its range.

    Returns:
        (B,...) of the same dtype, without a gradient.
    """
    images = images.detach()
    step_size = 2.5 * eps / max(1, steps) if step_size is None else step_size
    radius = max(0.0, eps - torch.finfo(images.dtype).eps)  # so that rounding eps and a sum in [0,1] stays below eps
    low, high = (images - radius).clamp_(min=0), (images + radius).clamp_(max=1)
    attacked = low + (high - low) * torch.rand(images.shape, dtype=images.dtype).to(images.device)
    for _ in range(steps):
        attacked = attacked.clamp(low, high).requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(attacked).sum(), attacked)
        attacked = attacked.detach() + step_size * gradient.sign()
    return attacked.clamp(low, high)


def log_odds_of_error(logits: Tensor, labels: Tensor) -> Tensor:
    """log((1 - p) / p) of each image, where p is the soft-max probability of its label: (B,T), (B,) -> (B,).

    Cross-entropy -log(p) grows with it. So both have gradients of the same signs, and PGD takes the same steps. But the
    gradient of cross-entropy is 0 in floating point where p rounds to 1, and that image would look robust. This one's
    is not. T is at least 2.
    """
    own = labels[:, None]
    others = logits.scatter(1, own, float("-inf")).logsumexp(1)
    return others - logits.gather(1, own)[:, 0]
