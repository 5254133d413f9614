"""EVP's update rule: the gradient is divided by its norm (TMLR 2024, Section 3, "gradient normalization")."""

from collections.abc import Callable

import torch
from torch import Tensor

NORMS: dict[str, Callable[[Tensor], Tensor | float]] = {
    "l2": lambda g: g.norm(2),
    "l1": lambda g: g.norm(1),
    "linf": lambda g: g.norm(float("inf")),
    "none": lambda g: 1.0,
}


class NormalizedGradient(torch.optim.Optimizer):
    """program <- program - lr * mask * g / (norm(g) + 1e-10), where g is the gradient of the mean loss.

    The norm is taken over the whole canvas, before the mask. So the pixels under the image count in it, although they
    never change. A mask inside the prompt's forward pass would make the same step longer.

    Args:
        program: the prompt's parameter, (3,H,W).
        mask: (3,H,W) of 0 and 1: 1 where the program may change.
        lr: the learning rate.
        norm: l2 (the paper's), l1, linf, or none, which does not divide.
    """

    # `step` undoes the gradient scaler's scale itself, so that the scaler never waits for the device
    _step_supports_amp_scaling = True

    def __init__(self, program: Tensor, mask: Tensor, lr: float, norm: str = "l2"):
        self.mask, self.norm = mask, NORMS[norm]
        super().__init__([program], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)  # set by a scaler
        for group in self.param_groups:
            for program in group["params"]:
                if program.grad is not None:
                    g = program.grad if scale is None else program.grad / scale
                    change = group["lr"] * self.mask * g / (self.norm(g) + 1e-10)
                    program -= change if found_inf is None else change.masked_fill(found_inf > 0, 0.0)
        return loss
