"""One step of the training loop: along the gradient, or by values of the loss alone."""

from functools import partial

import torch
from torch import Tensor, nn

from algorithms.distributed import all_sum, sum_gradients
from algorithms.losses import Loss
from algorithms.pieces import Pieces

Result = tuple[Tensor, Tensor, Tensor | None, Tensor]  # of a piece: summed loss, logits, source logits, labels


def logits_of(model: nn.Module, images: Tensor, with_source: bool) -> tuple[Tensor, Tensor | None]:
    """Target logits, and the source logits if they are asked for."""
    return model(images, with_source=True) if with_source else (model(images), None)


def step_along_gradient(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    pieces: Pieces,
    together: bool,
    images: Tensor,
    labels: Tensor,
    **how,
) -> list[Result]:
    """One step along the gradient. `together`: all processes make each forward pass, also those without images."""
    optimizer.zero_grad(set_to_none=True)
    in_batch = int(all_sum(torch.tensor(len(labels))))  # of all processes, so that their gradients add up
    results = []
    if len(labels) or together:

        def work(*piece: Tensor) -> Result:
            result = _forward(model, *piece, **how)
            scaler.scale(result[0] / in_batch).backward()
            return _detached(result)

        results = pieces.compute(model, work, images, labels, partial(optimizer.zero_grad, set_to_none=True))
    else:
        scaler.scale(torch.zeros((), device=labels.device))  # it needs a loss before each step
    sum_gradients(optimizer)
    scaler.step(optimizer)
    scaler.update()
    return results


def step_without_gradient(
    model: nn.Module, optimizer: torch.optim.Optimizer, pieces: Pieces, images: Tensor, labels: Tensor, **how
) -> list[Result]:
    """One step of an optimizer that only evaluates the loss. The results of its first evaluation.

    All its evaluations draw the random numbers of the first one, such as the positions of VP's random patch: so the
    losses differ by the values that learn alone.
    """
    first: list[Result] = []
    states: list[Tensor] = []  # of the random numbers, as the first evaluation finds it

    def evaluated() -> list[Result]:
        return pieces.compute(model, partial(_forward, model, **how), images, labels)

    @torch.no_grad()
    def closure() -> Tensor:
        if not first:
            states.append(torch.get_rng_state())
            results = evaluated()
            first.extend(results)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(states[0])
                results = evaluated()
        return torch.stack([summed_loss for summed_loss, *_ in results]).sum() / len(labels)

    optimizer.step(closure)
    return first


def _forward(model: nn.Module, images: Tensor, labels: Tensor, *, loss: Loss, with_source: bool) -> Result:
    if hasattr(loss, "of_images"):
        return *loss.of_images(model, images, labels), None, labels
    logits, source_logits = logits_of(model, images, with_source)
    return loss(logits, labels), logits, source_logits, labels


def _detached(result: Result) -> Result:
    return tuple(part if part is None else part.detach() for part in result)
