"""One run on several devices: sums over its processes, in the words of torch.distributed.

Every process computes its part of each batch. What is summed here is then the same on all of them. Without a process
group, as in a run of one process, these functions change nothing.
"""

import re

import torch
import torch.distributed as dist
from torch import Tensor, nn

from errors import RunError, UserError


def world_size() -> int:
    """How many processes carry out this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them, counted from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def all_sum(tensor: Tensor) -> Tensor:
    """The sum of all processes' tensors of one shape and dtype, the same on each; the argument is not changed.

    It returns when all processes have called it. So it also waits for them.

    Raises:
        RunError: another process has ended.
    """
    return tensor if world_size() == 1 else _sum_in_place(tensor.clone(memory_format=torch.contiguous_format))


def agree(number: int) -> bool:
    """Whether all processes call this with the same number; waits for them."""
    return int(all_sum(torch.tensor(number))) == world_size() * number


def _sum_in_place(total: Tensor) -> Tensor:
    try:
        dist.all_reduce(total)
    except RuntimeError as error:
        reason = re.sub(r"^\[\S+\] ", "", str(error)).split(". ")[0]
        raise RunError(
            f"{world_size()} processes carry out this run.",
            f"One of them is gone: {reason}.",
            "Start them again. Their last checkpoint is kept.",
        ) from None
    return total


def sum_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Makes each gradient the sum of all processes' gradients, in place.

    A process without images has no gradients of its own, and gets the sum too.
    """
    if world_size() == 1:
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    total = _sum_in_place(torch.cat([parameter.grad.flatten() for parameter in parameters]))
    sums = total.split([parameter.numel() for parameter in parameters])
    for parameter, gradient in zip(parameters, sums, strict=True):
        parameter.grad.copy_(gradient.view_as(parameter))  # into the memory format that fused optimizers expect


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """The model, with batch normalisation over the parts of the batch in all processes, as in a run of one process.

    Raises:
        UserError: the device is no GPU. torch has such layers for GPUs only.
    """
    normalised = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if world_size() == 1 or not normalised:
        return model
    if device.type != "cuda":
        raise UserError(
            f"{world_size()} processes are to train batch normalisation together.",
            f"torch's SyncBatchNorm needs CUDA; the device is {device}.",
            "Start one process: python instead of torchrun.",
        )
    from timm.layers import convert_sync_batchnorm  # late: slow to import, and seldom needed

    return convert_sync_batchnorm(model)


def is_synchronised(model: nn.Module) -> bool:
    """Whether all processes must make each forward pass in training together, also those without images."""
    return any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
