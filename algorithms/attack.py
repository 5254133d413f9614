"""Adversarial images: projected gradient descent within an L-infinity ball."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from algorithms.pieces import Pieces


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


class AttackedLoader:
    """The batches of a loader, their images attacked by `pgd` so that the model errs.

    Args:
        loader: batches of images (B,3,h,w) in [0,1] and labels (B,) int64.
        model: the model that is attacked, in eval mode: images -> logits (B,T), T at least 2.
        eps, steps: as `pgd` takes them.
        seed: what the random starts are drawn from. Each pass over the batches draws the same.
        pieces: in which pieces a batch is computed; None: each batch as a whole.
    """

    def __init__(
        self,
        loader: Iterable[tuple[Tensor, Tensor]],
        model: nn.Module,
        *,
        eps: float,
        steps: int,
        seed: int = 0,
        pieces: Pieces | None = None,
    ):
        self.loader, self.model, self.eps, self.steps, self.seed = loader, model, eps, steps, seed
        self.pieces = pieces or Pieces()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number, (images, labels) in enumerate(self.loader):
            with torch.random.fork_rng(devices=[]), torch.enable_grad():  # pieces that need gradients take more memory
                torch.manual_seed((self.seed * 1_000_003 + number) % 2**63)
                attacked = self.pieces.compute(self.model, self._attack, images, labels)
            yield torch.cat(attacked), labels

    def _attack(self, images: Tensor, labels: Tensor) -> Tensor:
        def loss(attacked: Tensor) -> Tensor:
            return log_odds_of_error(self.model(attacked), labels)

        return pgd(loss, images, eps=self.eps, steps=self.steps)
