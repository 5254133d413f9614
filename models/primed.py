"""AReS's local network: a frozen encoder, and a linear head on it that has learned what a service answers."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from models.black_box import Questions
from models.networks import Network


class PrimedNetwork(nn.Module):
    """Images (B,3,H,W) in [0,1] -> source logits (B,S): a linear layer on a frozen network's features.

    It takes a network's place in `Prompted`. The head learns before the prompt does (`algorithms.priming`), and is
    saved with the prompt. The encoder never changes.

    Args:
        encoder: images (B,3,H,W) in [0,1] -> features (B,D), with D `class_names`.
        class_names: S names, those of the service.

    Attributes:
        questions: what the service was asked (`BlackBox.questions`). It counts in the run's log and receipt.
    """

    frozen = True  # while the prompt learns

    def __init__(self, encoder: Network, class_names: Sequence[str], questions: Questions | None = None):
        super().__init__()
        self.encoder, self.class_names = encoder, tuple(class_names)
        self.head = nn.Linear(len(encoder.class_names), len(class_names)).to(encoder.mean.device)
        self.input_size, self.shares_border = encoder.input_size, encoder.shares_border
        self.cuda_graph = encoder.cuda_graph
        self.head.requires_grad_(False)
        self.questions = questions

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))

    @property
    def mean(self) -> Tensor:
        return self.encoder.mean

    @property
    def std(self) -> Tensor:
        return self.encoder.std

    @property
    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds, by its key."""
        return {"head_dict": self.head}

    @property
    def setup(self) -> dict[str, Any]:
        return self.encoder.setup | {"head_classes": list(self.class_names)}
