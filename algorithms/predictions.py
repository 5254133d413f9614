"""Predictions of the prompted network, counted for each target's images: what label mappings are made from."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from algorithms.distributed import all_sum, rank
from algorithms.pieces import Pieces


class Predictions(NamedTuple):
    """What a `PredictionCounter` counted, on the CPU.

    Args:
        counts: (S,T) int64, how many images of each target are predicted as each source label.
        masses: (S,T) float64, the probabilities that these images give to each source label, added up; None if the
            counter was not asked for them.
    """

    counts: Tensor
    masses: Tensor | None


class PredictionCounter:
    """Adds up predictions batch by batch; no logits are stored.

    The training loop calls it with the source logits of passes that it makes anyway. What it holds can be saved, since
    a run may stop between counting and mapping.

    Args:
        top: adds up the soft-max probabilities too, of the `top` most probable source labels of each image. None: no
            probabilities.
    """

    def __init__(self, num_source: int, num_target: int, top: int | None = None):
        self.top = top
        self._shape = num_source, num_target
        self._counts: Tensor | None = None  # made with the first batch: they are large for CLIP's text prompts
        self._masses: Tensor | None = None

    @torch.no_grad()
    def __call__(self, source_logits: Tensor, labels: Tensor) -> None:
        """Adds a batch, (B,S) and (B,) int64."""
        if self._counts is None:
            self._counts = torch.zeros(self._shape, dtype=torch.int64, device=labels.device)
        cells = source_logits.argmax(1) * self._shape[1] + labels
        self._counts.view(-1).scatter_add_(0, cells, torch.ones_like(cells))
        if self.top is not None:
            self._add_probabilities(source_logits, labels)

    def _add_probabilities(self, source_logits: Tensor, labels: Tensor) -> None:
        if self._masses is None:  # Apple's GPUs have no float64
            wide = torch.float32 if labels.device.type == "mps" else torch.float64
            self._masses = torch.zeros(self._shape, dtype=wide, device=labels.device)
        probabilities = source_logits.to(self._masses.dtype).softmax(1)
        if self.top < self._shape[0]:
            largest, sources = probabilities.topk(self.top)
            probabilities = torch.zeros_like(probabilities).scatter_(1, sources, largest)
        self._masses.index_add_(1, labels, probabilities.T)

    def take(self) -> Predictions:
        """What all processes have counted so far. Counting then starts again from zero. All processes must call it."""
        predictions = self.total()
        self._counts = self._masses = None
        return predictions

    def total(self) -> Predictions:
        """Like `take`, but what was counted is kept."""
        counts = torch.zeros(self._shape, dtype=torch.int64) if self._counts is None else self._counts.cpu()
        if self.top is None:
            return Predictions(all_sum(counts), None)
        masses = torch.zeros(self._shape, dtype=torch.float64) if self._masses is None else self._masses.cpu().double()
        return Predictions(all_sum(counts), all_sum(masses))

    def state_dict(self) -> dict[str, Any]:
        """The counts above zero, at most one for each image: `pairs` (K,2) of source and target, `counts` (K,); and
        `top` with the `masses`."""
        counts, masses = self.total()
        pairs = counts.nonzero()
        return {"pairs": pairs, "counts": counts[pairs[:, 0], pairs[:, 1]], "top": self.top, "masses": masses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads what was saved, in the first process only: it is what all processes have counted."""
        pairs, counts, masses, self.top = state["pairs"], state["counts"], state.get("masses"), state.get("top")
        self._counts = self._masses = None
        if len(pairs) > 0 and rank() == 0:
            self._counts = torch.zeros(self._shape, dtype=torch.int64).index_put_(tuple(pairs.T), counts)
            self._masses = None if masses is None else masses.clone()


class SentenceCounter(PredictionCounter):
    """Counts for each image the `nearest` most probable source labels of its own target (DVP, Cai et al., ICML 2025).

    The source labels of target t are the S/T ones from t * S/T on.

    Args:
        nearest: at most S/T.
    """

    def __init__(self, num_source: int, num_target: int, nearest: int):
        super().__init__(num_source, num_target)
        self._nearest = nearest

    @torch.no_grad()
    def __call__(self, source_logits: Tensor, labels: Tensor) -> None:
        if self._counts is None:
            self._counts = torch.zeros(self._shape, dtype=torch.int64, device=labels.device)
        each = self._shape[0] // self._shape[1]
        images = torch.arange(len(labels), device=labels.device)
        own = source_logits.view(len(labels), -1, each)[images, labels]  # (B,S/T)
        sources = labels[:, None] * each + own.topk(self._nearest).indices
        cells = (sources * self._shape[1] + labels[:, None]).flatten()
        self._counts.view(-1).scatter_add_(0, cells, torch.ones_like(cells))


class TargetPredictions:
    """Collects the predicted target of each image of a split, in an evaluation over its loader.

    Args:
        labels: (N,) int64.
        positions: (n,) int64, which of the N images this process evaluates, in their order.
    """

    def __init__(self, labels: Tensor, positions: Tensor):
        self.labels, self._positions = labels, positions
        self._batches: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, target_logits: Tensor, labels: Tensor) -> None:
        """Adds a batch, (B,T) and (B,)."""
        self._batches.append(target_logits.argmax(1))

    def take(self) -> Tensor:
        """(N,) int64 on the CPU: the prediction of every image. Collecting starts anew. All processes must call it."""
        predicted = torch.zeros_like(self.labels)
        if self._batches:
            predicted[self._positions] = torch.cat(self._batches).cpu()
        self._batches = []
        return all_sum(predicted)


def confusion(predicted: Tensor, labels: Tensor, num_target: int) -> Tensor:
    """(T,T) int64: how many images of each target (second axis) are predicted as each target (first axis)."""
    return torch.bincount(predicted * num_target + labels, minlength=num_target**2).view(num_target, num_target)


@torch.no_grad()
def count_predictions(
    source_logits: Callable[[Tensor], Tensor],
    loader: Iterable[tuple[Tensor, Tensor]],
    counter: PredictionCounter,
    pieces: Pieces | None = None,
) -> Predictions:
    """Counts the predictions of a pass over the loader.

    Args:
        source_logits: images (B,3,h,w) -> (B,S).
        loader: batches of images and target labels (B,) int64.
        pieces: in which pieces a batch is computed; None: each batch as a whole.
    """
    outputs = (pieces or Pieces()).outputs(source_logits)
    for images, labels in loader:
        if len(labels):  # one of several processes may have no image of a small batch
            counter(outputs(images), labels)
    return counter.take()
