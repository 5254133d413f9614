"""An output mapping over several sentences for each class (AttrVR)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from errors import UserError
from models.part import Part


class NearestSentences(Part):
    """A target's logit is the mean of its `nearest` largest source logits, and of several banks their weighted sum.

    The mapping of AttrVR on CLIP (Cai et al., ICLR 2025). Each image chooses its sentences for each class, so the
    choice follows the visual prompt, and nothing is counted. The source labels are sentences: sentence i of bank b for
    target t has the index (b * m + i) * T + t.

    Args:
        num_target: T.
        num_sentences: m, the sentences of a class in each bank.
        nearest: how many of them count, at most m.
        weights: what each bank counts; one number for each bank.

    Raises:
        UserError: more sentences should count than there are.
    """

    def __init__(self, num_target: int, num_sentences: int, nearest: int, weights: Sequence[float]):
        super().__init__()
        if nearest > num_sentences:
            raise UserError(
                f"--nearest {nearest}: so many sentences of a class have to be there.",
                f"Each class has {num_sentences}.",
                "Choose a smaller --nearest or a larger --descriptions.",
            )
        self.num_target, self.num_sentences, self.nearest, self.changed = num_target, num_sentences, nearest, None
        self.register_buffer("weights", torch.tensor([float(weight) for weight in weights]), persistent=False)

    def forward(self, source_logits: Tensor) -> Tensor:
        """(B,S) -> (B,T)."""
        banks = source_logits.view(-1, len(self.weights), self.num_sentences, self.num_target)
        return self.weights @ banks.topk(self.nearest, dim=2).values.mean(2)

    @property
    def sources(self) -> Tensor:
        """(T,S/T) int64: all sentences of each target."""
        number = len(self.weights) * self.num_sentences * self.num_target
        return torch.arange(number, device=self.weights.device).view(-1, self.num_target).T

    def named(self, source_names: Sequence[str], target_names: Sequence[str]) -> dict[str, str]:
        """Target name -> the first sentence of each bank, and how many sentences there are."""
        words = {}
        for target, row in zip(target_names, self.sources.tolist(), strict=True):
            first = " / ".join(source_names[source] for source in row[:: self.num_sentences])
            words[target] = first + (f" (first of {self.num_sentences} in each bank)" if len(row) > 1 else "")
        return words
