"""What a run's log tells of its label mapping: the predictions that it was made from, and what became of it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from algorithms.label_mapping import describe_mapping, name_changes
from algorithms.predictions import PredictionCounter, Predictions
from errors import UserError


class MappingRecord:
    """The predictions behind a run's mapping, and the entries of its log on that mapping.

    Attributes:
        training_counter: counts the predictions of training for the next mapping; None without --mapping-source train.
        trained: at an epoch's start, what it counted in the epoch before; else None.
        made_from: at an epoch's start, the predictions that the mapping was made from; else None.
    """

    def __init__(self) -> None:
        self.training_counter: PredictionCounter | None = None
        self.trained: Predictions | None = None
        self.made_from: Predictions | None = None

    def hooks(
        self,
        on_epoch_start: Callable[[int], dict | None],
        on_epoch_trained: Callable[[int], dict | None],
        model,
        target_names: Sequence[str],
    ) -> tuple[Callable[[int], dict], Callable[[int], dict]]:
        """Both hooks, whose records also tell what became of the mapping since the epoch's start."""
        mapping, before = model.mapping, torch.empty(0)

        def new_sources() -> dict[str, str]:
            return name_changes(before, mapping.sources, model.network.class_names, target_names)

        def start(epoch: int) -> dict[str, Any]:
            nonlocal before
            counted = epoch > 0 and self.training_counter is not None
            self.made_from, self.trained = None, self.training_counter.take() if counted else None
            mapping.changed, before = None, mapping.sources.clone()
            own = on_epoch_start(epoch) or {}
            record = self._of_start(mapping) | own
            if mapping.changed is not None:
                record["new_sources"] = new_sources()
            self.made_from = self.trained = None  # hundreds of MB, for many text prompts
            return record

        def trained(epoch: int) -> dict[str, Any]:
            mapping.changed = None
            own = on_epoch_trained(epoch) or {}
            if mapping.changed is None:
                return own
            new = new_sources()
            return {"remapped": len(new) / mapping.num_target, "new_sources": new} | own

        return start, trained

    def _of_start(self, mapping) -> dict[str, Any]:
        """The entries of an epoch's record on the mapping that was made at its start; none if no mapping was made."""
        if int(mapping.sources.max()) < 0:
            asked = "The mapping has to be set before the first epoch trains."
            raise UserError(asked, "The mapping is not set.", "Call mapping.set(...), or pass on_epoch_start.")
        record = {} if mapping.changed is None else {"remapped": mapping.changed}
        if self.made_from is not None:
            record |= describe_mapping(self.made_from.counts, mapping.sources.cpu())
        return record
