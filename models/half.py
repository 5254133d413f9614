"""Frozen weights in half precision: cast once, where autocast would cast them in every forward pass.

Autocast keeps no copies of weights that need no gradient. The results are the same to the bit, since the same layers
compute with the same numbers. Depthwise convolutions in bfloat16 are the exception: their weights are rounded better.
"""

import torch
from torch import Tensor, nn

from models.fold import CONVOLUTIONS, class_name

# Layers that use their weight and bias in one function only, which autocast computes in half precision.
_LAYERS = (*CONVOLUTIONS, "torch.nn.modules.conv.Conv1d", "torch.nn.modules.conv.Conv3d")
_LINEAR = "torch.nn.modules.linear.Linear"


class Float32Linear(nn.Linear):
    """A linear layer that autocast leaves alone: (B,D) of any float type -> (B,S) float32.

    In half precision two logits of an image are often equal, and the arg-max is then the first of them.
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def keep_logits_in_float32(network: nn.Module, num_source: int) -> None:
    """Makes every linear layer of `num_source` outputs, the classifier, a Float32Linear; changes `network` itself."""
    for layer in network.modules():
        if class_name(layer) == _LINEAR and layer.out_features == num_source:
            layer.__class__ = Float32Linear  # it keeps its place, its weights and their names


def halve_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Stores the weights and biases of convolutions and linear layers in `dtype`; changes `network` itself.

    `network` is frozen, and computes under autocast in `dtype`. Layers of other classes keep their weights, also those
    that inherit from these: they may use a weight in another function, too.
    """
    for layer in network.modules():
        if class_name(layer) in (*_LAYERS, _LINEAR):
            for name, weight in layer.named_parameters(recurse=False):
                keeps_sums = dtype == torch.bfloat16 and name == "weight" and weight.shape[1:2] == (1,)
                half = round_keeping_sums(weight.detach()) if keeps_sums else weight.detach().to(dtype)
                setattr(layer, name, nn.Parameter(half, requires_grad=False))


def round_keeping_sums(weight: Tensor) -> Tensor:
    """Rounds kernels (C,1,k,l) to bfloat16 so that the sum of each stays: each weight takes over the error before it.

    On smooth parts of an image a kernel works by its sum alone. A weight's error of 2^-9 adds up there, layer by layer,
    since the few weights of a depthwise convolution do not average it out. Large weights are rounded first.
    """
    kernels = weight.flatten(1)
    order = kernels.abs().argsort(dim=1, descending=True)
    rounded, error = torch.empty_like(kernels, dtype=torch.bfloat16), torch.zeros_like(kernels[:, 0])
    for which in order.T:
        wanted = kernels[torch.arange(len(kernels)), which] + error
        rounded[torch.arange(len(kernels)), which] = wanted.bfloat16()
        error = wanted - wanted.bfloat16()
    return rounded.view_as(weight)
