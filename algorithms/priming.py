"""AReS's first stage: a local network's new head learns what a service answers (CVPR 2026, arXiv 2604.01474)."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from algorithms.losses import kl_divergence
from algorithms.pieces import Pieces
from algorithms.training import cosine_schedule, evaluate, progress, train_one_epoch


class ServiceIsBetter(Exception):
    """The service is more accurate than the local network that learned its answers. `record` has both accuracies."""

    def __init__(self, record: dict[str, float]):
        super().__init__(record)
        self.record = record


def prime(
    network: nn.Module,
    service: nn.Module,
    asked,
    seen,
    *,
    device: torch.device,
    pieces: Pieces,
    epochs: int = 100,
    batch_size: int = 64,
    lr: float = 0.001,
) -> dict[str, float]:
    """Asks the service once about each training image, and trains the network's head on the answers.

    The optimizer is AdamW with a weight decay of 0.01, its rate a cosine over all steps. The encoder's features are
    computed once.

    Args:
        network: a `PrimedNetwork`: `encoder` gives features (B,D), `head` makes them logits (B,S).
        service: images (B,3,H,W) in [0,1] -> logits (B,S).
        asked, seen: loaders of the same images, as the service and as the encoder take them.

    Returns:
        The entries of a log, of the last epoch: `primed_kl`, the mean loss, and `primed_agreement`, in [0,1]: how often
        the most probable class is the service's.
    """
    service.train()  # these questions are those of training
    answers = asked.outputs(service, partial(progress, description="questions")).softmax(1)
    features = seen.outputs(pieces.outputs(network.encoder), partial(progress, description="features"))
    return train_head(network.head, features, answers, device=device, epochs=epochs, batch_size=batch_size, lr=lr)


def train_head(
    head: nn.Module,
    features: Tensor,
    answers: Tensor,
    *,
    device: torch.device,
    epochs: int = 100,
    batch_size: int = 64,
    lr: float = 0.001,
) -> dict[str, float]:
    """The training of `prime`, from features (N,D) and probabilities (N,S), float32. The head is frozen afterwards."""
    batches = _Batches((features, answers), batch_size, device)
    head.requires_grad_(True)
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=0.01)
    schedule = cosine_schedule(optimizer, epochs * len(batches))
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    for epoch in range(epochs):
        how = {"loss": kl_divergence, "after_step": schedule.step, "description": f"priming {epoch + 1}/{epochs}"}
        result = train_one_epoch(head, batches, optimizer, scaler, **how)
    head.requires_grad_(False)
    return {"primed_kl": result["loss"], "primed_agreement": result["acc"]}


class _Batches:
    """Pairs of tensors (N,...) in batches, in a new order each time."""

    def __init__(self, pair: tuple[Tensor, Tensor], batch_size: int, device: torch.device):
        self._pair, self._batch_size, self._device = pair, batch_size, device

    def __len__(self) -> int:
        return -(-len(self._pair[0]) // self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for positions in torch.randperm(len(self._pair[0])).split(self._batch_size):
            yield tuple(values[positions].to(self._device) for values in self._pair)


def compare(
    network: nn.Module, service: nn.Module, data, service_data, tolerance: float, pieces: Pieces | None = None
) -> dict[str, float]:
    """AReS-MS: chooses between the primed network and the service itself, by the validation images.

    Without a validation split the training images decide; the service has answered them already.

    Args:
        network, service: images (B,3,h,w) in [0,1] -> target logits (B,T).
        data, service_data: the same images (`Data`), as network and service take them.
        tolerance: how much less accurate the network may be, in [0,1].
        pieces: in which pieces the network computes batches; None: each batch as a whole.

    Returns:
        The entries of a log: both accuracies.

    Raises:
        ServiceIsBetter: it is less accurate.
    """
    accuracies = [
        evaluate(model, images.val or images.train_as_eval, pieces=pieces, description=name)["acc"]
        for name, model, images in (("primed_acc", network, data), ("service_acc", service, service_data))
    ]
    return choose(*accuracies, tolerance)


def choose(primed_acc: float, service_acc: float, tolerance: float) -> dict[str, float]:
    """What `compare` returns or raises, once both accuracies are known."""
    record = {"primed_acc": primed_acc, "service_acc": service_acc}
    if primed_acc < service_acc - tolerance:
        raise ServiceIsBetter(record)
    return record
