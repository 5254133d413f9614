"""Optimizers that need only values of the loss: for a network that answers and gives no gradient.

Their `step(closure)` has the shape of torch's: the closure evaluates the loss of one batch, here without a gradient. It
is called `evaluations` times a step. Every random number is drawn on the CPU, from torch's default generator, which the
training loop seeds; so a resumed run draws the same.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

Closure = Callable[[], Tensor]  # the loss of a batch, a scalar


def segmented_uniform(like: Tensor) -> Tensor:
    """SPSA's perturbation of each value: uniform in [0.5, 1), with a random sign (BlackVIP, CVPR 2023)."""
    magnitudes = 0.5 + 0.5 * torch.rand(like.shape)
    signs = 2.0 * torch.randint(2, like.shape) - 1
    return (signs * magnitudes).to(like)


def standard_normal(like: Tensor) -> Tensor:
    return torch.randn(like.shape).to(like)


@contextmanager
def _moved(parameters: Sequence[Tensor], moves: Sequence[Tensor], factor: float) -> Iterator[None]:
    """The parameters, each moved by `factor` times its move; afterwards they are what they were, to the bit."""
    before = [parameter.clone() for parameter in parameters]
    try:
        for parameter, move in zip(parameters, moves, strict=True):
            parameter.add_(move, alpha=factor)
        yield
    finally:  # the closure raises where a budget is spent
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)


class SPSA_GC(torch.optim.Optimizer):
    """Simultaneous perturbation with gradient correction (BlackVIP, Oh et al., CVPR 2023, Section 3.3).

    One draw moves all parameters at once by c_k p, and back by as much, with c_k = c / k^gamma in step k = 1, 2, ...

        g = (L(w + c_k p) - L(w - c_k p)) / (2 c_k p), by element, the mean over the draws
        m = momentum * m + g, in the first step m = g
        w = w - lr * (g + momentum * m)

    `gain_schedule` gives the learning rate a_k.

    Args:
        params: parameters or parameter groups, as of any optimizer of torch.
        lr: a, or a_k with its schedule.
        momentum: the paper's beta.
        c, gamma: how far the parameters are moved.
        draws: perturbations of a step, each of two evaluations.
        perturbation: a parameter -> p of its shape; no element is 0.

    State: `momentum_buffer` of each parameter; `step` of each group, the steps done.
    """

    gradient_free = True

    def __init__(
        self,
        params: Iterable,
        *,
        lr: float = 0.01,
        momentum: float = 0.9,
        c: float = 0.01,
        gamma: float = 0.1,
        draws: int = 5,
        perturbation: Callable[[Tensor], Tensor] = segmented_uniform,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "c": c, "gamma": gamma, "step": 0})
        self.draws, self.evaluations, self._perturbation = draws, 2 * draws, perturbation

    @torch.no_grad()
    def step(self, closure: Closure) -> Tensor:
        """Returns the first evaluation's loss."""
        gradients, loss = self._estimate(closure)
        for group in self.param_groups:
            group["step"] += 1
            for parameter in group["params"]:
                g, state = gradients[parameter], self.state[parameter]
                m = group["momentum"] * state["momentum_buffer"] + g if state else g
                state["momentum_buffer"] = m
                parameter -= group["lr"] * (g + group["momentum"] * m)
        return loss

    def _estimate(self, closure: Closure) -> tuple[dict[Tensor, Tensor], Tensor]:
        radius = {
            parameter: group["c"] / (group["step"] + 1) ** group["gamma"]
            for group in self.param_groups
            for parameter in group["params"]
        }
        parameters, losses = list(radius), []
        gradients = {parameter: torch.zeros_like(parameter) for parameter in parameters}
        for _ in range(self.draws):
            moves = [radius[parameter] * self._perturbation(parameter) for parameter in parameters]
            for factor in (1.0, -1.0):
                with _moved(parameters, moves, factor):
                    losses.append(closure())
            for parameter, move in zip(parameters, moves, strict=True):
                gradients[parameter] += (losses[-2] - losses[-1]) / (2 * move * self.draws)
        return gradients, losses[0]


class RandomGradientFree(torch.optim.Optimizer):
    """The one-sided random gradient-free estimate of BAR (Tsai et al., ICML 2020, Section 3.3).

        g = (d / q) * sum over q draws of (L(w + beta u) - L(w)) / beta * u
        w = w - lr * g

    u is a random unit vector over all d values of all parameters. `polynomial_schedule` gives the learning rate.

    Args:
        params: parameters or parameter groups, as of any optimizer of torch.
        lr: the learning rate.
        beta: how far the parameters are moved.
        draws: q; a step has one evaluation more.
        direction: a parameter -> a random direction of its shape, of any length.

    It has no state.
    """

    gradient_free = True

    def __init__(
        self,
        params: Iterable,
        *,
        lr: float,
        beta: float = 0.01,
        draws: int = 5,
        direction: Callable[[Tensor], Tensor] = standard_normal,
    ):
        super().__init__(params, {"lr": lr})
        self.beta, self.draws, self.evaluations, self._direction = beta, draws, 1 + draws, direction

    @torch.no_grad()
    def step(self, closure: Closure) -> Tensor:
        """Returns the loss before the step."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        values = sum(parameter.numel() for parameter in parameters)
        gradients = [torch.zeros_like(parameter) for parameter in parameters]
        loss = closure()
        for _ in range(self.draws):
            drawn = [self._direction(parameter) for parameter in parameters]
            length = torch.stack([direction.norm() for direction in drawn]).norm()
            directions = [direction / length for direction in drawn]
            with _moved(parameters, directions, self.beta):
                slope = (closure() - loss) / self.beta
            for gradient, direction in zip(gradients, directions, strict=True):
                gradient += values / self.draws * slope * direction
        rates = [group["lr"] for group in self.param_groups for _ in group["params"]]
        for parameter, gradient, lr in zip(parameters, gradients, rates, strict=True):
            parameter -= lr * gradient
        return loss


def gain_schedule(
    optimizer: torch.optim.Optimizer, offset: float = 1.0, alpha: float = 0.4
) -> torch.optim.lr_scheduler.LRScheduler:
    """SPSA's a_k = a / (k + offset)^alpha in step k = 1, 2, ...; a is the optimizer's learning rate."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: (done + 1 + offset) ** -alpha)


def polynomial_schedule(
    optimizer: torch.optim.Optimizer, steps: int, least: float, power: float = 0.9, until: float = 0.9
) -> torch.optim.lr_scheduler.LRScheduler:
    """BAR's learning rate in BlackVIP's code: from that of the optimizer to `least`, along a polynomial.

    In step k = 1, 2, ... it is (lr - least) * (1 - k / (until * steps))^power + least, and `least` after `until` of the
    steps.
    """

    def lowered(lr: float) -> Callable[[int], float]:
        def factor(done: int) -> float:
            left = max(0.0, 1 - (done + 1) / (until * steps))
            return ((lr - least) * left**power + least) / lr

        return factor

    return torch.optim.lr_scheduler.LambdaLR(optimizer, [lowered(group["lr"]) for group in optimizer.param_groups])
