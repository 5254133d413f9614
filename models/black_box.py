"""A network that only answers: it gives class scores, no gradient, and what it is asked is counted."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from errors import BudgetSpent, UserError


class Questions:
    """What a network has been asked, and how much it may be asked to train.

    A call is one batch of images, whatever its size, as ZIP (ICLR 2025) and BlackVIP (CVPR 2023) count. The budget is
    for the calls and images of training and of mappings. Those of evaluation are counted apart, and have no limit.

    Args:
        calls, images: the budget; None: any number.

    Attributes:
        spent: whether a question was refused because of the budget. All questions of training are refused from then on.
    """

    def __init__(self, calls: int | None = None, images: int | None = None):
        self.most_calls, self.most_images = calls, images
        self.calls = self.images = self.evaluation_calls = self.evaluation_images = 0
        self.spent = False

    def count(self, images: int, training: bool) -> None:
        """Counts a call.

        Raises:
            BudgetSpent: the budget does not allow it. It is not counted then.
        """
        if not training:
            self.evaluation_calls, self.evaluation_images = self.evaluation_calls + 1, self.evaluation_images + images
            return
        calls_left = self.most_calls is None or self.calls < self.most_calls
        images_left = self.most_images is None or self.images + images <= self.most_images
        self.spent = self.spent or not (calls_left and images_left)
        if self.spent:
            raise BudgetSpent
        self.calls, self.images = self.calls + 1, self.images + images

    def steps(self, calls: int, loader: Any, epochs: int) -> int:
        """How many steps a training has: those of its epochs, or fewer if the budget does not pay them; at least 1.

        Args:
            calls: how often a step asks.
            loader: of `len(loader)` steps an epoch, in `passes` over the images with these `labels`.
        """
        most = [epochs * len(loader)]
        if self.most_calls is not None:
            most.append(self.most_calls // calls)
        if self.most_images is not None:
            most.append(self.most_images * len(loader) // (calls * loader.passes * len(loader.labels)))
        return max(1, min(most))

    @property
    def record(self) -> dict[str, int]:
        """The counts since the run's first epoch, for its log, its receipt and its checkpoint."""
        return {
            "calls": self.calls,
            "images_asked": self.images,
            "evaluation_calls": self.evaluation_calls,
            "evaluation_images_asked": self.evaluation_images,
        }

    def state_dict(self) -> dict[str, Any]:
        return self.record | {"spent": self.spent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls, self.images, self.spent = state["calls"], state["images_asked"], state["spent"]
        self.evaluation_calls, self.evaluation_images = state["evaluation_calls"], state["evaluation_images_asked"]


class BlackBox(nn.Module):
    """Images (B,3,H,W) in [0,1] -> class scores (B,S) float32, without gradient. It takes a network's place.

    Another black box, such as a service, is a subclass with an `answer` of its own.

    In training mode its questions count as those of training, else as those of evaluation. What it wraps stays as it
    is in both. A batch is one call also where `pieces` cuts it.

    Args:
        network: what is hidden, a frozen `Network`; or what describes the network behind the `answer` of a subclass:
            anything with `class_names`, `input_size`, `mean` and `std` (3,1,1), and `setup`.
        calls, images: the budget, as of `Questions`.
        pieces: in which pieces the network computes a batch (`Pieces`); None: as a whole.
    """

    frozen, shares_border, cuda_graph, gives_gradients = True, False, False, False
    cuts_batches = True  # itself: `Pieces` leaves batches whole
    saved: ClassVar[dict] = {}  # a checkpoint holds nothing of it

    def __init__(self, network: Any, calls: int | None = None, images: int | None = None, pieces: Any = None):
        super().__init__()
        if not getattr(network, "frozen", True):
            asked = "A black box hides a network that does not learn."
            raise UserError(asked, "This one learns.", "Load it with frozen=True.")
        self.network, self.questions = network, Questions(calls, images)
        self.class_names, self.input_size, self.setup = network.class_names, network.input_size, network.setup
        self._compute: Callable = pieces.outputs(network) if pieces else network

    @property
    def mean(self) -> Tensor:
        return self.network.mean

    @property
    def std(self) -> Tensor:
        return self.network.std

    def answer(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] -> (B,S) class scores: logits, or logarithms of probabilities."""
        return self._compute(images)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        self.questions.count(len(x), self.training)
        return self.answer(x).detach().float()
