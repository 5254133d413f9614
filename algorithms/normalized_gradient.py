"""The update rules that divide the gradient by its norm: EVP's (TMLR 2024, Section 3) and ACAVP's (NeurIPS 2025)."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

NORMS: dict[str, Callable[[Tensor], Tensor | float]] = {
    "l2": lambda g: g.norm(2),
    "l1": lambda g: g.norm(1),
    "linf": lambda g: g.norm(float("inf")),
    "none": lambda g: 1.0,
}


class NormalizedGradient(torch.optim.Optimizer):
    """p <- p - lr * v, v <- momentum * v + clip(mask * g / (norm(g) + 1e-10)), for each parameter p by itself.

    g is the gradient of the mean loss. The length of a step depends neither on the gradient's size, nor on the scale of
    the loss, nor on the number of images.

    EVP has a mask. Its norm is taken over the whole canvas, before the mask. So the pixels under the image count in it,
    although they never change. A mask inside the prompt's forward pass would make the same step longer. ACAVP has such
    a mask, momentum, and clips the parameters that move and colour the image.

    Args:
        params: one parameter, or parameters or parameter groups as of any optimizer of torch. A group may have its own
            `lr`, `momentum` and `clip`.
        mask: of the shape of each parameter, 0 and 1: 1 where it may change. None: everywhere.
        lr: the learning rate.
        norm: l2 (the papers'), l1, linf, or none, which does not divide.
        momentum: as of torch's SGD; 0 has none.
        clip: the largest absolute value of an element of the normalised gradient.

    State: `momentum_buffer`, the v of each parameter, if there is momentum.
    """

    # `step` undoes the gradient scaler's scale itself, so that the scaler never waits for the device
    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: Tensor | Iterable,
        mask: Tensor | None = None,
        *,
        lr: float,
        norm: str = "l2",
        momentum: float = 0.0,
        clip: float = math.inf,
    ):
        self.mask, self.norm = mask, NORMS[norm]
        params = [params] if isinstance(params, Tensor) else params
        super().__init__(params, {"lr": lr, "momentum": momentum, "clip": clip})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # checkpoints of the version before have a learning rate alone
            group.setdefault("momentum", 0.0)
            group.setdefault("clip", math.inf)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)  # set by a scaler
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    g = parameter.grad if scale is None else parameter.grad / scale
                    change = group["lr"] * self._direction(parameter, g, group, found_inf)
                    parameter -= change if found_inf is None else change.masked_fill(found_inf > 0, 0.0)
        return loss

    def _direction(self, parameter: Tensor, g: Tensor, group: dict[str, Any], found_inf: Tensor | None) -> Tensor:
        """v of the docstring. Where the scaler found infinite gradients, the momentum stays as it was."""
        direction = g / (self.norm(g) + 1e-10)
        if self.mask is not None:
            direction = self.mask * direction
        if group["clip"] < math.inf:
            direction = direction.clamp(-group["clip"], group["clip"])
        if group["momentum"] == 0:
            return direction
        state = self.state[parameter]
        before = state.get("momentum_buffer", torch.zeros_like(parameter))
        after = group["momentum"] * before + direction
        state["momentum_buffer"] = after if found_inf is None else torch.where(found_inf > 0, before, after)
        return state["momentum_buffer"]
