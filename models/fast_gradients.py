"""Gradients for which torch's CPU kernels have a faster equal: of depthwise convolutions in bfloat16, and of ReLU6."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import handle_torch_function, has_torch_function_unary

from models.fold import CONVOLUTIONS, class_name

_TIMMS_CONVOLUTION = CONVOLUTIONS[1]
_RELU6 = "torch.nn.modules.activation.ReLU6"
_LAST = {"memory_format": torch.channels_last}


def use_fast_gradients(network: nn.Module, dtype: torch.dtype) -> None:
    """Gives a frozen network the layers of this file, where it has such layers; changes `network` itself.

    Args:
        dtype: the type that its convolutions compute in. Only in bfloat16 do depthwise convolutions gain.
    """
    for layer in network.modules():
        name = class_name(layer)
        if name == _RELU6:
            layer.__class__ = ReLU6
        elif name in CONVOLUTIONS and dtype == torch.bfloat16 and _is_depthwise(layer):
            layer.__class__, layer.pads_as_tensorflow = DepthwiseConv2d, name == _TIMMS_CONVOLUTION


def _is_depthwise(layer: nn.Conv2d) -> bool:
    """Whether each channel has one kernel of its own, of a geometry that `depthwise_conv2d` knows."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str) or set(layer.dilation) != {1}:
        return False
    axes = zip(layer.kernel_size, layer.stride, layer.padding, strict=True)
    known = all(stride <= kernel > padding for kernel, stride, padding in axes)
    return known and layer.groups == layer.in_channels == layer.out_channels > 1


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution with the gradient of `depthwise_conv2d`: (B,C,H,W) -> (B,C,H',W')."""

    def forward(self, x: Tensor) -> Tensor:
        weight, padding = self.weight, self.padding
        if self.pads_as_tensorflow:
            weight, padding = _tensorflow(weight, x.shape[2:], self.stride)
        return depthwise_conv2d(x, weight, self.bias, self.stride, padding, self.dilation, self.groups)


def _tensorflow(weight: Tensor, size: Sequence[int], stride: Sequence[int]) -> tuple[Tensor, tuple[int, int]]:
    """TensorFlow's padding of a map, which adds more below and on the right, as a weight (C,1,k,l) and its padding.

    Instead of a copied map, a weight with a row or column of zeros before its first one gives the same.
    """
    axes = zip(size, weight.shape[2:], stride, strict=True)
    height, width = (max(0, (length - 1) // step * step + kernel - length) for length, kernel, step in axes)
    return F.pad(weight, (width % 2, 0, height % 2, 0)), ((height + 1) // 2, (width + 1) // 2)


def depthwise_conv2d(input: Tensor, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Tensor:
    """`F.conv2d` with one kernel for each channel, frozen: weight (C,1,k,l). dilation is 1, groups is C.

    The gradient is computed by forward convolutions of the same type. oneDNN's own kernel takes twice as long in
    bfloat16 at a stride of 1, and 5 to 14 times as long as float32's at a stride of 2.
    """
    if has_torch_function_unary(input):
        return handle_torch_function(depthwise_conv2d, (input,), input, weight, bias, stride, padding, dilation, groups)
    return _DepthwiseConv2d.apply(input.to(weight.dtype), weight, bias, _two(stride), _two(padding))


def _two(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


class _DepthwiseConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.geometry = tuple(x.shape), stride, padding
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return _input_gradient(grad, *ctx.saved_tensors, *ctx.geometry), None, None, None, None


def _input_gradient(grad: Tensor, weight: Tensor, shape, stride, padding) -> Tensor:
    """The gradient of a depthwise convolution's input.

    At stride s the inputs fall into s phases along each axis. Those of one phase meet every s-th weight only. Their
    gradient is the convolution of `grad` with these weights in reverse order.
    """
    axes = list(zip(shape[2:], weight.shape[2:], stride, padding, strict=True))
    result = torch.empty(shape, dtype=grad.dtype, device=grad.device, **_LAST)
    if any((size + 2 * pad - kernel) % step > pad for size, kernel, step, pad in axes):  # no output has these inputs
        result.zero_()
    rows, columns = ([_phase(phase, step, pad) for phase in range(step)] for _, _, step, pad in axes)
    for row_weights, row_inputs, first_row in rows:
        for column_weights, column_inputs, first_column in columns:
            part = weight[:, :, row_weights, column_weights].flip(2, 3).contiguous(**_LAST)
            last = part.shape[2] - 1, part.shape[3] - 1
            found = F.conv2d(grad, part, padding=last, groups=len(weight))[:, :, first_row:, first_column:]
            place = result[:, :, row_inputs, column_inputs]
            height, width = (min(a, b) for a, b in zip(place.shape[2:], found.shape[2:], strict=True))
            place[:, :, :height, :width] = found[:, :, :height, :width]
    return result


def _phase(phase: int, stride: int, padding: int) -> tuple[slice, slice, int]:
    """Along one axis: a phase's weights, its inputs, and the first of the convolution's outputs that belongs to one."""
    first = (phase - padding) % stride
    return slice(phase, None, stride), slice(first, None, stride), (first + padding - phase) // stride


class ReLU6(nn.Module):
    """`nn.ReLU6`, never in place."""

    def forward(self, x: Tensor) -> Tensor:
        return relu6(x)


def relu6(x: Tensor) -> Tensor:
    """`F.relu6`. For its gradient torch keeps the input, and copies it if the layer works in place. This keeps the
    output, which the next layer keeps anyway."""
    if has_torch_function_unary(x):
        return handle_torch_function(relu6, (x,), x)
    return _ReLU6.apply(x)


class _ReLU6(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        y = F.hardtanh(x, 0.0, 6.0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        return torch.ops.aten.hardtanh_backward(grad, *ctx.saved_tensors, 0.0, 6.0)
