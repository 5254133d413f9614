"""What a run asked a network that only answers: in its log, its checkpoint and its receipt."""

from typing import Any

import torch
from torch import nn

from algorithms.distributed import world_size
from errors import UserError


class Asked:
    """The questions of a run's training. Of a network that is no black box it does nothing.

    Args:
        folder: the run's folder.
        model: its `network` may have `questions` (`BlackBox`).
        optimizer: a black box, and more than one process, say which kind it has to be.

    Raises:
        UserError: a black box is to be trained by gradients, or several processes by values of the loss.
    """

    def __init__(self, folder, model: nn.Module, optimizer: torch.optim.Optimizer):
        self._folder = folder
        self._questions = getattr(getattr(model, "network", None), "questions", None)
        self._per_step = getattr(optimizer, "evaluations", 0)
        if self._questions and not self._per_step:
            asked = f"{type(optimizer).__name__} trains by gradients."
            found = f"{type(model.network).__name__} only answers; it gives none."
            raise UserError(asked, found, "Take an optimizer of algorithms/zeroth_order.py.")
        if self._per_step and world_size() > 1:
            asked = f"{type(optimizer).__name__} evaluates the loss of whole batches."
            raise UserError(asked, f"{world_size()} processes divide them.", "Start one process: python, not torchrun.")

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"questions_dict": self._questions} if self._questions else {}

    def end_epoch(self, epoch: int, record: dict) -> None:
        """The folder's `end_epoch`; record and receipt also tell what was asked so far."""
        self._note()
        self._folder.end_epoch(epoch, record | (self._questions.record if self._questions else {}))

    def end(self) -> None:
        """After the last epoch: says so if the budget ended the training.

        Raises:
            UserError: the budget did not pay the first step.
        """
        self._note()
        if not self._questions or not self._questions.spent:
            return
        epochs, record = len(self._folder.log.records), self._questions.record
        if not epochs:
            raise UserError(
                f"{self._budget}: a step asks {self._per_step} times, and each mapping once a batch.",
                f"It is spent before the first step, after {record['calls']} calls.",
                "Give a larger one, or a smaller --batch-size.",
            )
        print(f"{self._budget} is spent: training ends in epoch {epochs}, as a finished run.", flush=True)

    @property
    def _budget(self) -> str:
        limits = {"--budget": self._questions.most_calls, "--budget-images": self._questions.most_images}
        return "The budget " + " ".join(f"{flag} {most}" for flag, most in limits.items() if most is not None)

    def _note(self) -> None:
        if self._questions:
            self._folder.receipt |= self._questions.record | {"budget_spent": self._questions.spent}
