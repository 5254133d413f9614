"""One border for a whole batch: activations that no image reaches are computed once.

Where a prompt surrounds the image, all prompted images of a batch are equal outside the image's window. A convolutional
network's activations are then equal outside the region that the window reaches. `SharedBorder` carries such activations
from layer to layer as one border and a window per image, until the windows cover most of the map. The function and its
gradients stay the same. The network's code does not change.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from errors import UserError
from models.fast_gradients import depthwise_conv2d

# If a border and B windows have more than this fraction of the pixels of B maps, sharing costs more than it saves.
_WORTH_SHARING = 0.8
_Bounds = Sequence[range]  # a rectangle of the map: its rows, its columns


def share_border(prompt: nn.Module, x: Tensor) -> Tensor:
    """`prompt(x)` with its border shared: `network(share_border(prompt, x))` equals `network(prompt(x))`.

    Args:
        prompt: one with `constant_border = True`. It pads the images by its `padding` and adds pixels that do not
            depend on them (`visual_prompt.py`).
        x: (B,3,h,w) in [0,1].

    Returns:
        A SharedBorder; where sharing does not pay, `prompt(x)` itself.
    """
    left, right, top, bottom = prompt.padding
    height, width = x.shape[2] + top + bottom, x.shape[3] + left + right
    if not _pays((height, width), len(x), (range(x.shape[2]), range(x.shape[3]))):
        return prompt(x)
    canvas = prompt(x.new_zeros(1, *x.shape[1:]))
    return SharedBorder(canvas, x + canvas[:, :, top : height - bottom, left : width - right], top, left)


def _refuse(*_) -> None:
    """Refuses code that ignores `__torch_function__`, such as an autograd.Function: gradients would be lost."""
    raise UserError(
        "Sharing the prompt's border among the images of a batch:",
        "The network has a part that is no ordinary torch function (an autograd.Function, or C++ of its own).",
        "Run without sharing: --no-share-border",
    )


class SharedBorder(Tensor):
    """A tensor (B,C,H,W) whose images differ in a window only.

    Convolution, max-pooling, batch normalisation in eval mode and pointwise functions, also of two such tensors, act on
    border and window and return a SharedBorder. All other functions get `dense()`. So do these once sharing does not
    pay; at a batch of 1 it never does. The window may grow into the border. The tensor's values stay the same.

    Args:
        border: (1,C,H,W), the same for all images. Its values inside the window mean nothing and are never used.
        window: (B,C,h,w) of the same dtype: rows `top` to `top + h`, columns `left` to `left + w` of each image.
            In-place functions change `border` and `window` themselves.

    Raises:
        UserError: in the backward pass of an autograd.Function that took this for a plain tensor.
    """

    @staticmethod
    def __new__(cls, border: Tensor, window: Tensor, top: int, left: int) -> "SharedBorder":
        shape = (*window.shape[:2], *border.shape[2:])
        kind = {"dtype": window.dtype, "device": window.device, "requires_grad": window.requires_grad}
        self = Tensor._make_wrapper_subclass(cls, shape, **kind)
        self.border, self.window, self.top, self.left = border, window, top, left
        if window.requires_grad:
            with torch._C.DisableTorchFunctionSubclass():
                self.register_hook(_refuse)
        return self

    @classmethod
    def __torch_function__(cls, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None):
        kwargs = kwargs or {}
        if func in _METADATA:
            return super().__torch_function__(func, types, args, kwargs)
        if rule := _RULES.get(func) or (getattr(func, "__name__", "") in _POINTWISE and partial(_pointwise, func)):
            result = rule(*args, **kwargs)
            if result is not NotImplemented:
                return result
        args, kwargs = tree_map_only(SharedBorder, SharedBorder.dense, (args, kwargs))
        return func(*args, **kwargs)

    __torch_dispatch__ = classmethod(_refuse)

    @property
    def bounds(self) -> _Bounds:
        height, width = self.window.shape[2:]
        return range(self.top, self.top + height), range(self.left, self.left + width)

    def dense(self) -> Tensor:
        """The plain tensor (B,C,H,W). It becomes this tensor's window, so that in-place functions change both."""
        height, width = self.border.shape[2:]
        self.grow((range(height), range(width)))
        return self.window

    def grow(self, bounds: _Bounds) -> None:
        """Widens the window until it also covers `bounds`."""
        rows, columns = _union(self.bounds, bounds)
        if (rows, columns) == self.bounds:
            return
        with torch.enable_grad():  # growing keeps the tensor's values and its gradient, under no_grad too
            ground = self.border[:, :, rows.start : rows.stop, columns.start : columns.stop]
            self.window = _Paste.apply(ground, self.window, self.top - rows.start, self.left - columns.start)
        self.top, self.left = rows.start, columns.start

    def cut(self, bounds: _Bounds, fill: float) -> Tensor:
        """(B,C,rows,columns): each image within `bounds`, and `fill` where the bounds reach beyond the map."""
        size = self.border.shape[2:]
        inside = [range(max(axis.start, 0), min(axis.stop, end)) for axis, end in zip(bounds, size, strict=True)]
        self.grow(inside)
        rows, columns = inside
        part = self.window[:, :, rows.start - self.top : rows.stop - self.top]
        part = part[..., columns.start - self.left : columns.stop - self.left]
        outside = [n for i in (1, 0) for n in (inside[i].start - bounds[i].start, bounds[i].stop - inside[i].stop)]
        return F.pad(part, outside, value=fill) if any(outside) else part


class _Paste(torch.autograd.Function):
    """ground (1,C,H,W), window (B,C,h,w) -> (B,C,H,W): each image's window on the ground, the same for all images.

    It reads, writes and sums the ground around the window only. Plain tensor operations would pass over the whole
    ground several times.
    """

    @staticmethod
    def forward(ctx, ground: Tensor, window: Tensor, top: int, left: int) -> Tensor:
        batch, _, height, width = window.shape
        rows, columns = slice(top, top + height), slice(left, left + width)
        above, below = (..., slice(0, top), slice(None)), (..., slice(top + height, None), slice(None))
        ctx.inside = (..., rows, columns)
        ctx.around = (above, below, (..., rows, slice(0, left)), (..., rows, slice(left + width, None)))
        channels_last = window.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        out = torch.empty_like(ground.expand(batch, -1, -1, -1), memory_format=layout)
        out[ctx.inside] = window
        for strip in ctx.around:
            out[strip] = ground[strip]
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        ground = torch.zeros_like(grad[:1])
        for strip in ctx.around:
            ground[strip] = grad[strip].sum(0, keepdim=True)
        return ground, grad[ctx.inside], None, None


# How functions act on border and window: rules with the functions' own arguments. NotImplemented: use `dense()`. ------


def _slide(x: Tensor, layer: Callable, kernel, stride, padding, dilation, fill: float = 0.0):
    """A layer that slides a kernel over the map: `layer(map, padding=)`, where padding counts as `fill`."""
    if not _shares(x) or isinstance(padding, str):
        return NotImplemented
    geometry = list(zip(*map(_both, (kernel, stride, padding, dilation)), strict=True))
    outputs = [_outputs(size, *axis) for size, axis in zip(x.border.shape[2:], geometry, strict=True)]
    axes = zip(x.bounds, outputs, geometry, strict=True)
    reached, needed = zip(*(_reach(seen, size, *axis) for seen, size, axis in axes), strict=True)
    if min(outputs) < 1 or not _pays(outputs, len(x.window), reached):  # without an output torch has its own message
        return NotImplemented
    border = layer(x.border, padding=padding)
    return SharedBorder(border, layer(x.cut(needed, fill), padding=0), *(axis.start for axis in reached))


def _both(value) -> tuple[int, int]:
    """One number or two, as torch's layers take them: for rows and columns."""
    return (value, value) if isinstance(value, int) else tuple(value) * (2 // len(value))


def _outputs(inputs: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Along one axis: how many outputs the layer has."""
    return (inputs + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _reach(seen: range, outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[range, range]:
    """Along one axis: the layer's outputs that the inputs `seen` reach, and all inputs that these outputs need."""
    span = dilation * (kernel - 1)
    first = max(0, -((span - seen.start - padding) // stride))
    last = min(outputs - 1, (seen.stop - 1 + padding) // stride)
    return range(first, last + 1), range(first * stride - padding, last * stride - padding + span + 1)


def _union(first: _Bounds, second: _Bounds) -> _Bounds:
    return tuple(range(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))


def _shares(x: object) -> bool:
    """Whether to go on with a border. Not under no_grad with gradients: this may be inside an autograd.Function."""
    if not isinstance(x, SharedBorder) or (x.window.requires_grad and not torch.is_grad_enabled()):
        return False
    return _pays(x.border.shape[2:], len(x.window), x.bounds)


def _pays(size: Sequence[int], batch: int, bounds: _Bounds) -> bool:
    """Whether windows of these bounds are small enough to share the border of maps of this size, (H,W).

    No output depends on an empty window.
    """
    fraction = prod(map(len, bounds)) / prod(size)
    return fraction > 0 and 1 + batch * fraction <= _WORTH_SHARING * batch


def _conv2d(input: Tensor, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups=1, function=F.conv2d):
    layer = partial(function, weight=weight, bias=bias, stride=stride, dilation=dilation, groups=groups)
    return _slide(input, layer, weight.shape[2:], stride, padding, dilation)


def _max_pool2d(input: Tensor, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    if ceil_mode or return_indices:
        return NotImplemented
    stride = stride or kernel_size
    layer = partial(F.max_pool2d, kernel_size=kernel_size, stride=stride, dilation=dilation)
    return _slide(input, layer, kernel_size, stride, padding, dilation, -torch.inf)


def _pad(input: Tensor, pad, mode="constant", value=None):
    """Constants around the map belong to the border. The window is copied: in-place functions must not change both."""
    if not _shares(input) or mode != "constant" or len(pad) != 4 or min(pad) < 0:
        return NotImplemented
    border, window = F.pad(input.border, pad, mode, value), input.window.clone()
    return SharedBorder(border, window, input.top + pad[2], input.left + pad[0])


def _batch_norm(input: Tensor, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    normalise = partial(F.batch_norm, running_mean=mean, running_var=var, weight=weight, bias=bias, eps=eps)
    return NotImplemented if training else _pointwise(normalise, input)


def _pointwise(func: Callable, *args, **kwargs):
    """A function of each pixel alone. The windows of several such tensors grow to their union."""
    shared = [arg for arg in args if isinstance(arg, SharedBorder)]
    fits = shared and all(_fits(arg, shared[0]) for arg in args if isinstance(arg, Tensor))
    if not fits or any(isinstance(value, Tensor) for value in kwargs.values()):
        return NotImplemented
    bounds = reduce(_union, (one.bounds for one in shared))
    if not _pays(shared[0].border.shape[2:], len(shared[0].window), bounds):
        return NotImplemented
    for one in shared:
        one.grow(bounds)
    border = func(*(arg.border if isinstance(arg, SharedBorder) else arg for arg in args), **kwargs)
    window = func(*(arg.window if isinstance(arg, SharedBorder) else arg for arg in args), **kwargs)
    if window is shared[0].window:  # changed in place, or nothing to do
        return shared[0]
    if border is shared[0].border:  # the function returned its argument: later in-place functions must not change it
        border = border.clone()
    return SharedBorder(border, window, *(axis.start for axis in bounds))


def _fits(tensor: Tensor, shared: SharedBorder) -> bool:
    """Whether a pointwise function of both does the same to all images, and to all pixels of the map."""
    if isinstance(tensor, SharedBorder):
        same = (len(tensor.window), *tensor.border.shape[2:]) == (len(shared.window), *shared.border.shape[2:])
        return same and _shares(tensor)
    return tensor.ndim <= 4 and prod(tensor.shape[:-3]) == prod(tensor.shape[-2:]) == 1


_RULES = {
    F.conv2d: _conv2d,
    depthwise_conv2d: partial(_conv2d, function=depthwise_conv2d),
    F.max_pool2d: _max_pool2d,
    F.pad: _pad,
    F.batch_norm: _batch_norm,
    F.dropout: lambda input, p=0.5, training=True, inplace=False: NotImplemented if training else input,
    Tensor.requires_grad.__get__: lambda x: x.window.requires_grad,
}

_POINTWISE = """
    add add_ sub sub_ rsub __rsub__ mul mul_ div div_ __rdiv__ neg neg_ maximum minimum clamp clamp_ clamp_min clamp_max
    relu relu_ relu6 hardtanh hardtanh_ leaky_relu leaky_relu_ elu elu_ selu celu silu gelu mish hardswish hardsigmoid
    sigmoid sigmoid_ tanh tanh_ softplus exp abs square to float double half bfloat16 contiguous clone
""".split()

_METADATA = {Tensor.size, Tensor.dim, Tensor.__len__}
_METADATA |= {field.__get__ for field in (Tensor.shape, Tensor.ndim, Tensor.dtype, Tensor.device)}
