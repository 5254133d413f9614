"""A shared border compared with the plain canvas: the same outputs and gradients, with less work."""

import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import Calls
from hypothesis import given, settings
from hypothesis import strategies as st
from test_networks import random_statistics
from timm.layers import Conv2dSame
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from data.abide import lower_triangle
from errors import UserError
from models.fold import fold_batch_norm
from models.network_row import NetworkRow
from models.networks import Execution, Network
from models.shared_border import SharedBorder, share_border
from models.visual_prompt import ExpansiveVisualPrompt, PaddedVisualPrompt, frame

pytestmark = pytest.mark.numeric


class Work(TorchDispatchMode):
    """Counts the multiplications of all convolutions, forward and backward to their inputs."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.total += out.numel() * args[1][0].numel()
        elif func is torch.ops.aten.convolution_backward.default:
            self.total += args[0].numel() * args[2][0].numel()
        return out


class Block(nn.Module):
    """A residual block as ResNet's: two 3 x 3 convolutions, and a 1 x 1 of the same stride or nothing beside them."""

    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        same = stride == 1 and width_in == width
        self.shortcut = nn.Identity() if same else nn.Conv2d(width_in, width, 1, stride)

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        out += self.shortcut(x)
        return out.relu_()


class Do(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def make_prompt(image_size: int, canvas: int, inner_mask=None) -> ExpansiveVisualPrompt:
    prompt = ExpansiveVisualPrompt(image_size, canvas, inner_mask)
    nn.init.normal_(prompt.program, std=2)
    return prompt


def run(network, make_input, parameters) -> tuple[list[torch.Tensor], int]:
    """The output, and the gradients of `parameters` under a random loss; the work of it."""
    with Work() as work:
        torch.manual_seed(5)
        out = network(make_input())
        weights = torch.randn(out.shape, dtype=out.dtype, device=out.device)
        gradients = torch.autograd.grad((out * weights).sum(), parameters, allow_unused=True, materialize_grads=True)
    return [out.detach() * 1, *gradients], work.total


def compare(network, prompt, batch=5, *, dtype=torch.float64, rtol=1e-12, gradient_rtol=None) -> float:
    """Checks outputs and the prompt's gradient. Returns the work with a shared border / the dense work."""
    network, prompt = network.to(dtype), prompt.to(dtype)
    size = prompt.program.shape[-1] - sum(prompt.padding[:2])
    x = torch.rand(batch, 3, size, size, dtype=dtype)
    images = x.clone()
    dense, dense_work = run(network, lambda: prompt(x), [prompt.program])
    shared, work = run(network, lambda: share_border(prompt, x), [prompt.program])
    for expected, found, tolerance in zip(dense, shared, (rtol, gradient_rtol or rtol), strict=True):
        assert (found - expected).norm() <= tolerance * expected.norm()
    assert torch.equal(x, images)
    return work / max(dense_work, 1)


def statistics(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(1)
    return random_statistics(nn.Sequential(*layers))


LAYERS = {
    "3x3": lambda: [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1)],
    "no padding": lambda: [nn.Conv2d(3, 4, 5)],
    "stem": lambda: [
        nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU6(), nn.MaxPool2d(3, 2, 1)
    ],
    "rectangular": lambda: [nn.Conv2d(3, 4, (1, 5), (2, 1), (0, 2)), nn.SiLU(), nn.Conv2d(4, 4, (3, 2), (1, 2))],
    "1x1, stride 2": lambda: [nn.Conv2d(3, 4, 1, 2), nn.Hardswish()],
    "1x1, stride 3": lambda: [nn.Conv2d(3, 4, 1, 3), nn.GELU()],
    "grouped": lambda: [nn.Conv2d(3, 6, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(6, 4, 3, 2, 1, groups=2)],
    "depthwise": lambda: [nn.Conv2d(3, 6, 5, 2, 2, groups=3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, 1, 1, groups=6)],
    "dilated": lambda: [nn.Conv2d(3, 4, 3, 1, 2, dilation=2), nn.Dropout(), nn.Conv2d(4, 4, 2, 2, 0, dilation=3)],
    "asymmetric": lambda: [nn.ZeroPad2d((2, 1, 0, 3)), nn.Conv2d(3, 4, 3, 2), nn.Sigmoid()],
    "timm's same": lambda: [Conv2dSame(3, 4, 3, 2), nn.ReLU(), Conv2dSame(4, 4, 5, 2)],
    "pool": lambda: [nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(2), Do(torch.neg), nn.MaxPool2d((3, 2), (2, 1), (1, 0))],
    "dilated pool": lambda: [Do(lambda x: F.max_pool2d(x, (2,), 1, 1, 2))],
    "pool of ceiled size": lambda: [nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2, ceil_mode=True)],
    "pool with indices": lambda: [Do(lambda x: F.max_pool2d(x, 3, return_indices=True)[0])],
    "block": lambda: [Block(3, 4, 1), Block(4, 4, 1)],
    "stride-2 block": lambda: [Block(3, 4, 2), Block(4, 6, 2)],
    "arithmetic": lambda: [Do(lambda x: 2 - (x - torch.ones(3, 1, 1)) / 3 * torch.tensor(2.0) + x / x.abs().add(1))],
}  # fmt: skip
DENSE = {"pool of ceiled size", "pool with indices"}  # correct, but not shared
GEOMETRY = [(1, 24), (8, 24), (9, 24), (10, 25), (20, 24), (23, 24), (24, 24)]


@pytest.mark.parametrize("name", LAYERS)
def test_layers_equal_the_dense_ones(name):
    network = statistics(*LAYERS[name]())
    for image_size, canvas in GEOMETRY:
        compare(network, make_prompt(image_size, canvas))
    out = network(share_border(make_prompt(6, 48).double(), torch.rand(5, 3, 6, 6).double()))
    assert isinstance(out, SharedBorder) == (name not in DENSE)


@pytest.mark.parametrize(("image_size", "convolutions"), [(4, 2), (12, 1)])
def test_a_border_that_does_not_pay_is_not_computed(image_size, convolutions):
    """The kernel of 9 reaches a third of the map from the small image, and nearly all of it from the large one."""
    prompt, layer = make_prompt(image_size, 22), nn.Conv2d(3, 4, 9, padding=4)
    with Calls() as calls:
        layer(share_border(prompt, torch.rand(8, 3, image_size, image_size)))
    assert calls.names.count("aten.convolution") == convolutions


def test_a_canvas_that_does_not_pay_is_not_computed():
    prompt, x = make_prompt(23, 24), torch.rand(8, 3, 23, 23)
    with Calls() as calls:
        shared = share_border(prompt, x)
    assert calls.names.count("aten.sigmoid") == 1 and type(shared) is torch.Tensor
    assert torch.equal(shared, prompt(x))


def test_a_kernel_larger_than_the_map_is_torchs_own_error():
    with pytest.raises(RuntimeError, match="Kernel size"):
        nn.Conv2d(3, 4, 30)(share_border(make_prompt(4, 22), torch.rand(8, 3, 4, 4)))


def place(border: torch.Tensor, window: torch.Tensor, top: int, left: int) -> torch.Tensor:
    """What a SharedBorder of these means."""
    dense = border.expand(len(window), -1, -1, -1).clone()
    dense[:, :, top : top + window.shape[2], left : left + window.shape[3]] = window
    return dense


def compare_parts(network, parts: tuple, parameters: list[torch.Tensor]) -> None:
    expected, _ = run(network, lambda: place(*parts), parameters)
    found, _ = run(network, lambda: SharedBorder(parts[0] * 1, parts[1] * 1, *parts[2:]), parameters)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("image_size", [8, 32, 33, 64, 127, 128, 200, 223, 224])
def test_image_sizes_on_a_canvas_of_224(image_size):
    network = statistics(*LAYERS["stem"](), Block(4, 4, 1), Block(4, 6, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    share = compare(network, make_prompt(image_size, 224), 3)
    assert share < 0.6 if image_size < 65 else share <= 1.1


@st.composite
def layers(draw) -> nn.Module:
    """A convolution, pooling or block of 4 channels that keeps a map of 12 pixels or more to at least 1."""
    kernel, stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    padding = draw(st.integers(0, 3))
    kind = draw(st.sampled_from(["convolution", "pool", "same", "block", "pad"]))
    if kind == "convolution":
        groups = draw(st.sampled_from([1, 2, 4]))
        return nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups)
    if kind == "pool":
        return nn.MaxPool2d(kernel, stride, min(padding, kernel // 2))  # a dilated one on a tiny map crashes torch
    if kind == "same":
        return Conv2dSame(4, 4, kernel, stride)
    return Block(4, 4, min(stride, 2)) if kind == "block" else nn.ZeroPad2d((padding, 1, 0, kernel))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(layers(), min_size=1, max_size=4),
    st.tuples(st.integers(12, 30), st.integers(12, 30)),
    st.tuples(*[st.floats(0, 1)] * 4),  # the window's position, as a fraction of the canvas
    st.integers(1, 6),
)
def test_any_stack_of_layers_for_any_window(stack, canvas, corners, batch):
    """Windows of any shape, at any position, also at the canvas's edges; gradients to canvas, images and weights."""
    network = random_statistics(nn.Sequential(*stack)).double()
    (top, bottom), (left, right) = (
        sorted((round(corners[i] * (canvas[i] - 1)), round(corners[i + 2] * canvas[i]))) for i in (0, 1)
    )
    bottom, right = max(bottom, top + 1), max(right, left + 1)
    border = torch.randn(1, 4, *canvas, dtype=torch.float64, requires_grad=True)
    window = torch.randn(batch, 4, bottom - top, right - left, dtype=torch.float64, requires_grad=True)
    try:
        network(place(border, window, top, left))
    except RuntimeError:  # the map became smaller than a kernel
        return
    compare_parts(network, (border, window, top, left), [border, window, *network.parameters()])


UNKNOWN = {
    "sum along rows": lambda x: x.cumsum(2),
    "softmax over channels": lambda x: x.softmax(1),
    "a gate from a global mean": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "flip": lambda x: x.flip(3),
    "channels beside each other": lambda x: torch.cat([x, x.relu()], 1)[:, 1:4],
    "larger map": lambda x: F.interpolate(x, scale_factor=2),
    "mirrored padding": lambda x: F.pad(x, (1, 2, 3, 4), mode="reflect"),
    "padded channels": lambda x: F.pad(x, (1, 1, 1, 1, 0, 1)),
    "cropped": lambda x: F.pad(x, (-1, 0, 0, -3)),
    "a number for each image": lambda x: x * torch.arange(len(x)).view(-1, 1, 1, 1),
    "a number for each column": lambda x: x + torch.arange(x.shape[-1]),
    "a number for each image, by its name": lambda x: torch.add(x, other=torch.arange(len(x)).view(-1, 1, 1, 1)),
    "a row for all rows": lambda x: x * 1 + F.conv2d(x, torch.ones(3, 3, 32, 1).to(x.dtype)),
    "batch statistics": lambda x: F.batch_norm(x, None, None, training=True),
    "dropout": lambda x: F.dropout(x, 0.5),
    "assignment": lambda x: x.index_fill_(1, torch.tensor([0]), 2.0),
    "wrong way round": lambda x: F.conv2d(torch.ones(1, 3, 50, 50).to(x.dtype), x[:1, :, :3, :3]) + x.mean(),
    "unequal convolution": lambda x: F.conv2d(x, torch.ones(2, 3, 2, 2).to(x.dtype), padding="same"),
    "transposed": lambda x: x.mT.clone(),
    "asked without gradients": lambda x: (torch.no_grad()(lambda: x.mean())() + x).mul(2),
    "in place, seen by all": lambda x: [y := x, y.mul_(2), y.add_(y.relu()), x.mean(), y.neg_(), x + 1][-1],
    "in place, on a copy": lambda x: [F.pad(x, (0, 0, 0, 0)).neg_(), x.clone().neg_(), x][-1],
    "in place, a wider window": lambda x: [y := x * 1, y.add_(F.max_pool2d(x, 5, 1, 2)), y][-1],
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_functions_get_the_dense_tensor(name):
    unknown = UNKNOWN[name]
    layer = nn.Conv2d(3, 3, 3, padding=1)
    compare(nn.Sequential(layer, Do(unknown), nn.ReLU()), make_prompt(5, 32))
    compare(nn.Sequential(Do(unknown), nn.ReLU()), make_prompt(5, 32))


@pytest.mark.parametrize("name", [*LAYERS, *UNKNOWN])
def test_windows_that_touch_the_edge(name):
    """In each corner; all values negative, so that padding of 0 would win any maximum."""
    network = statistics(*LAYERS[name]()) if name in LAYERS else nn.Sequential(Do(UNKNOWN[name]))
    border = (-1 - torch.rand(1, 3, 32, 32, dtype=torch.float64)).requires_grad_()
    window = (-1 - torch.rand(5, 3, 5, 6, dtype=torch.float64)).requires_grad_()
    for corner in ((0, 0), (0, 26), (27, 0), (27, 26)):
        compare_parts(network.double(), (border, window, *corner), [border, window])


def test_what_torch_does_not_dispatch_is_refused_rather_than_wrong():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    prompt, x = make_prompt(5, 32), torch.rand(5, 3, 5, 5)
    assert torch.equal(Double.apply(share_border(prompt, x)), prompt(x) * 2)
    shared = share_border(prompt, x)
    with pytest.raises(UserError, match="--no-share-border"):
        (Double.apply(shared) + shared).sum().backward()
    with pytest.raises(UserError, match="--no-share-border"), torch._C.DisableTorchFunctionSubclass():
        torch.neg(shared)


def test_a_batch_of_one_is_dense():
    network = statistics(*LAYERS["3x3"]())
    assert compare(network, make_prompt(5, 32), batch=1) == 1


def test_abide_and_a_padded_prompt():
    """A prompt that is not zero inside the image's window."""
    network = statistics(*LAYERS["stem"](), Block(4, 4, 1), Block(4, 6, 2))
    assert compare(network, make_prompt(9, 64, lower_triangle()[:9, :9]), 8) < 0.5
    compare(network, make_prompt(200, 224, lower_triangle()), 2)
    padded = PaddedVisualPrompt(10, frame(64, 27))
    nn.init.normal_(padded.program)
    assert compare(network, padded, 8) < 0.5


def test_a_shared_border_tells_what_the_dense_tensor_would():
    prompt, x = make_prompt(5, 33), torch.rand(6, 3, 5, 5)
    shared, dense = share_border(prompt, x), prompt(x)
    assert (shared.shape, shared.size(-1), shared.ndim, shared.dim()) == (dense.shape, 33, 4, 4)
    assert (len(shared), shared.dtype, shared.device, shared.requires_grad) == (6, dense.dtype, dense.device, True)
    assert shared.window.shape == (6, 3, 5, 5)  # no question made it dense
    assert shared.float() is shared
    assert isinstance(shared.to(torch.bfloat16), SharedBorder)
    assert torch.equal(shared.dense(), dense)
    assert torch.equal(shared[2:4, 1], dense[2:4, 1])
    # a vector instruction and the scalar function of the rest are each within an ulp, 2^-23 of a number, of tanh
    tanh = share_border(prompt, x).tanh().clone().dense()
    torch.testing.assert_close(tanh, dense.tanh(), rtol=2 * 2**-23, atol=0)
    with torch.inference_mode():
        assert torch.equal(share_border(prompt, x) * 2, prompt(x) * 2)
    images = x.to(memory_format=torch.channels_last)
    shared = share_border(prompt, images)
    shared.contiguous().neg_()  # a copy of the window, the border itself
    assert torch.equal(shared.dense(), dense)
    with pytest.raises(RuntimeError, match="must match"):
        share_border(prompt, torch.rand(6, 3, 4, 4))


def test_channels_last_stays():
    layer = nn.Conv2d(3, 8, 3, padding=1).to(memory_format=torch.channels_last)
    shared = layer(share_border(make_prompt(5, 33), torch.rand(6, 3, 5, 5)))
    for part in (shared.window, shared.border, shared.cut((range(9, 20), range(10, 25)), 0.0), shared.dense()):
        assert part.is_contiguous(memory_format=torch.channels_last)


# Whole networks ------------------------------------------------------------------------------------------------------


def build(name: str, folded: bool, **how) -> nn.Module:
    torch.manual_seed(0)
    body = random_statistics(timm.create_model(name, pretrained=False, **how))
    return fold_batch_norm(body) if folded else body


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "tf_efficientnet_lite0",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet50", "resnext50_32x4d")),
    ],
)
def test_networks_equal_the_dense_ones(name, folded):
    """In float64, where rounding moves no activation to the other side of a kink."""
    share = compare(build(name, folded), make_prompt(12, 96), 3, rtol=1e-11, gradient_rtol=1e-10)
    assert share < 0.95


# image size, and the most that a step's convolutions may cost with a shared border, dense = 1
@pytest.mark.parametrize(
    ("name", "image_size", "most"),
    [
        ("resnet18", 32, 0.51),
        ("resnet18", 128, 0.84),
        ("resnet50", 32, 0.54),
        ("resnext101_32x8d", 32, 0.77),
        ("tf_efficientnet_lite0", 32, 0.66),
        ("tf_efficientnet_lite0", 128, 0.86),
    ],
)
def test_networks_do_less_work(name, image_size, most):
    with torch.device("meta"):  # shapes only: nothing is computed
        network = timm.create_model(name, pretrained=False).eval().requires_grad_(False)
        prompt, x = ExpansiveVisualPrompt(image_size, 224), torch.rand(64, 3, image_size, image_size)
    _, dense = run(network, lambda: prompt(x), [prompt.program])
    _, shared = run(network, lambda: share_border(prompt, x), [prompt.program])
    assert shared / dense < most


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_loaded_network_in_each_precision(precision):
    """Folded, channels last, normalising by itself. A smooth activation: rounding moves none across a kink.

    float32 rounds by u = 2^-24. A sum of n terms, one added after the other, is off by u * sqrt(n / 2), at n = 4608 by
    3e-6; 20 layers of independent errors by sqrt(20) of that, two ways of computing by another sqrt(2): 2e-5.
    bfloat16 rounds some 40 results by 2^-9 each, so that two ways are sqrt(2 * 40) * 2^-9 = 0.017 apart.
    The gradient has twice the roundings, and the max pooling: where two of a window's values are nearer than the error,
    the gradient may go to the other one. That is less than one of 131,072 windows in float32 (each weighs 0.004 of the
    norm) and 0.8 % of them in bfloat16: sqrt(0.008) = 0.09.
    """
    row = NetworkRow(nn.Identity, input_size=64)
    body = build("resnet18", True, act_layer=nn.SiLU)
    network = Network(body, row, Execution(torch.device("cpu"), precision), frozen=True, setup={})
    network.to(memory_format=torch.channels_last)
    rtol, gradient_rtol = {"float32": (2e-5, 1e-2), "bfloat16": (2e-2, 0.1)}[precision]
    prompt = make_prompt(9, 64)
    share = compare(network, prompt, 8, dtype=torch.float32, rtol=rtol, gradient_rtol=gradient_rtol)
    assert share < 0.9
    assert network(share_border(prompt, torch.rand(2, 3, 9, 9))).dtype == torch.float32
