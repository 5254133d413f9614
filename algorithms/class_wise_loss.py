"""The loss of C-AVP (Chen et al., ICASSP 2023): a prompt for each class, which must not serve the other classes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.attack import log_odds_of_error, pgd
from algorithms.distributed import world_size
from errors import UserError


class ClassWiseLoss:
    """Cross-entropy under the true class's prompt, with and without an attack, and three margins between prompts.

    All of them are means over each class's images in the batch, summed over the classes. So they need whole batches.

    Args:
        eps: largest change of a pixel by the attack, in [0,1]. It attacks prompted images, knowing the prompt.
        steps: of the attack, each of eps / 4; 0: no attack.
        weight: of the margins.
        margins: which of the three, by their numbers 1, 2, 3.

    Raises:
        UserError: several processes carry out the run, each with a part of the batch.
    """

    def __init__(self, *, eps: float, steps: int, weight: float = 3.0, margins: Sequence[int] = (1, 2, 3)):
        if world_size() > 1:
            asked = f"{world_size()} processes are to train a prompt for each class together."
            found = "The loss compares all images of a batch, and each process has a part of them."
            raise UserError(asked, found, "Start one process: python instead of torchrun.")
        self.eps, self.steps, self.weight, self.margins = eps, steps, weight, [number - 1 for number in margins]

    def of_images(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss times B, since the loop divides a sum over images by B; and log P[c,c] of each class, (B,T).

        Args:
            model: has a `prompt` (`PromptsOfClasses`) and a `network`.
            images: (B,3,h,w) in [0,1].
            labels: (B,) int64.
        """
        log_p = model.prompt.log_probabilities(model.network, images)
        own = log_p.diagonal(dim1=0, dim2=2)  # (B,T): log P[c,c]
        loss = _sum_of_class_means(F.nll_loss(own, labels, reduction="none"), labels, len(log_p))
        if self.margins:
            loss = loss + self.weight * margins(log_p.exp(), labels)[self.margins].sum()
        if self.steps:
            loss = loss + self._attacked(model, images, labels)
        return len(labels) * loss, own

    def _attacked(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        def logits(prompted: Tensor) -> Tensor:
            return model.network(prompted)[:, model.prompt.labels]

        prompted = model.prompt(images, labels)
        how = {"eps": self.eps, "steps": self.steps, "step_size": self.eps / 4}
        attacked = pgd(lambda x: log_odds_of_error(logits(x), labels), prompted, **how)
        moved = prompted + (attacked - prompted).detach()
        each = F.cross_entropy(logits(moved), labels, reduction="none")
        return _sum_of_class_means(each, labels, len(model.prompt.labels))


def margins(p: Tensor, labels: Tensor, tau: float = 0.1) -> Tensor:
    """The three margins, (3,), each at least -tau for a class. Below, j is an image's class.

    1. The largest P[k,k] of another class k, minus P[j,j]: the other prompts' own classes must be less probable.
    2. P[i,i] minus the largest P[i,k], k != i, of images of other classes than i: prompt i must not say i of them.
    3. The largest P[k,j] of another prompt k, minus P[j,j]: class j must be most probable under its own prompt.

    Each is a mean over the images of a class (2: over those of all other classes), summed over the classes. A class
    without such images counts 0.

    Args:
        p: (T,B,T), P: probabilities by prompt, image and class.
        labels: (B,) int64.
    """
    is_own = F.one_hot(labels, len(p)).bool()  # (B,T)
    diagonal = p.diagonal(dim1=0, dim2=2)  # (B,T): P[k,k]
    own = diagonal.gather(1, labels[:, None])[:, 0]
    others = diagonal.masked_fill(is_own, -torch.inf).amax(1)
    under_others = p.gather(2, labels.expand(len(p), -1)[..., None])[..., 0].T.masked_fill(is_own, -torch.inf).amax(1)
    is_prompts = torch.eye(len(p), dtype=torch.bool, device=p.device)[:, None]
    says = diagonal - p.masked_fill(is_prompts, -torch.inf).amax(2).T  # (B,T), by image and prompt
    return torch.stack(
        [
            _sum_of_means((others - own).clamp(min=-tau)[:, None], is_own),
            _sum_of_means(says.clamp(min=-tau), ~is_own),
            _sum_of_means((under_others - own).clamp(min=-tau)[:, None], is_own),
        ]
    )


def _sum_of_class_means(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Values (B,) -> the sum over classes of their means over each class's images; no image: 0."""
    return _sum_of_means(values[:, None], F.one_hot(labels, num_classes).bool())


def _sum_of_means(values: Tensor, chosen: Tensor) -> Tensor:
    """Values (B,1) or (B,T), and which of them each column's mean is over, (B,T)."""
    return (torch.where(chosen, values, 0).sum(0) / chosen.sum(0).clamp(min=1)).sum()
