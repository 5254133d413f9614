"""Gradients with a faster equal: the same numbers as torch's own functions, with and without a shared border."""

import pytest
import torch
import torch.nn.functional as F
from conftest import Calls
from timm.layers import Conv2dSame
from torch import nn

from models.fast_gradients import DepthwiseConv2d, ReLU6, depthwise_conv2d, relu6, use_fast_gradients
from models.networks import Execution, load_network
from models.shared_border import SharedBorder

pytestmark = pytest.mark.numeric


def gradients(function, x, *args):
    x = x.clone().requires_grad_()
    y = function(x, *args)
    weights = torch.randint(-4, 5, y.shape, generator=torch.Generator().manual_seed(1))  # exact in every type
    (y * weights).sum().backward()
    return y.detach(), x.grad


@pytest.mark.parametrize("size", [(7, 10), (8, 9), (13, 6)])
@pytest.mark.parametrize("kernel", [1, 2, 3, (3, 5), 5])
@pytest.mark.parametrize("stride", [1, 2, 3, (2, 1)])
@pytest.mark.parametrize("padding", [0, 1, 2, (1, 0)])
def test_the_gradient_of_a_depthwise_convolution(float64, size, kernel, stride, padding):
    layer = nn.Conv2d(4, 4, kernel, stride, padding, groups=4).requires_grad_(False)
    body = nn.Sequential(layer)
    use_fast_gradients(body, torch.bfloat16)
    geometry = list(zip(layer.kernel_size, layer.stride, layer.padding, strict=True))
    known = all(stride <= kernel and padding < kernel for kernel, stride, padding in geometry)
    assert isinstance(layer, DepthwiseConv2d) == known
    if not known:
        return
    x = torch.randn(2, 4, *size).contiguous(memory_format=torch.channels_last)
    (y, found), (expected_y, expected) = (
        gradients(body, x),
        gradients(F.conv2d, x, layer.weight, layer.bias, layer.stride, layer.padding, 1, 4),
    )
    assert torch.equal(y, expected_y)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(7, 10), (8, 9), (1, 2)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (5, 1), (2, 2)])
def test_timms_padding(float64, size, kernel, stride):
    layer = Conv2dSame(4, 4, kernel, stride, groups=4).requires_grad_(False)
    x = torch.randn(2, 4, *size)
    y, expected = gradients(layer, x)
    use_fast_gradients(layer, torch.bfloat16)
    assert isinstance(layer, DepthwiseConv2d)
    found_y, found = gradients(layer, x)
    torch.testing.assert_close(found_y, y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_is_rounded_once(stride):
    """The sums, in float32, are rounded to 8 bits once: a relative error of at most 2^-8."""
    torch.manual_seed(0)
    x, weight = torch.randn(4, 16, 15, 15).bfloat16(), torch.randn(16, 1, 3, 3).bfloat16()
    arguments = (None, stride, 1, 1, 16)
    y, found = gradients(depthwise_conv2d, x, weight, *arguments)
    _, exact = gradients(F.conv2d, x.double(), weight.double(), *arguments)
    assert y.dtype == found.dtype == torch.bfloat16
    assert ((found - exact).abs() <= 2**-8 * exact.abs() + 2**-18).all()


def test_relu6_has_torchs_bits_and_copies_nothing():
    values = torch.tensor([-torch.inf, -1, -1e-30, -0.0, 0, 1e-30, 3, 5.96875, 6, 6.03125, torch.inf, torch.nan])
    for dtype in (torch.float32, torch.bfloat16):
        x = values.to(dtype)
        assert same_bits(gradients(relu6, x), gradients(F.relu6, x))
    layer = nn.Sequential(nn.ReLU6(inplace=True))
    use_fast_gradients(layer, torch.float32)
    x = values.clone().requires_grad_()
    with Calls() as calls:
        layer(x * 1).sum().backward()
    assert isinstance(layer[0], ReLU6) and "aten.clone" not in calls.names


def same_bits(found, expected) -> bool:
    return all(torch.equal(a.nan_to_num(1e9), b.nan_to_num(1e9)) for a, b in zip(found, expected, strict=True))


def test_other_layers_stay_as_they_are():
    for layer in (
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, groups=4, dilation=2),
        nn.Conv2d(4, 4, 3, groups=4, padding="same"),
        nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 4, 3, 4, groups=4),
        nn.Conv2d(4, 4, 3, padding=3, groups=4),
        nn.Hardtanh(),
    ):
        kind = type(layer)
        use_fast_gradients(layer, torch.bfloat16)
        assert type(layer) is kind
    layer = nn.Conv2d(4, 4, 3, groups=4)
    use_fast_gradients(layer, torch.float32)
    assert type(layer) is nn.Conv2d


@pytest.mark.parametrize("stride", [1, 2])
def test_a_shared_border_stays_shared(float64, stride):
    body = nn.Sequential(
        nn.Conv2d(4, 4, 3, stride, 1, groups=4), nn.ReLU6(inplace=True), Conv2dSame(4, 4, 3, stride, groups=4)
    )
    body.requires_grad_(False)
    border, window = 3 * torch.randn(1, 4, 64, 64), 3 * torch.randn(8, 4, 6, 5)
    found = []
    for fast in (False, True):
        if fast:
            use_fast_gradients(body, torch.bfloat16)
        leaves = [border.clone().requires_grad_(), window.clone().requires_grad_()]
        y = body(SharedBorder(leaves[0] * 1, leaves[1] * 1, 20, 31))
        assert isinstance(y, SharedBorder)
        y.dense().square().sum().backward()
        found.append([y.dense().detach(), *(leaf.grad for leaf in leaves)])
    for slow, quick in zip(*found, strict=True):
        torch.testing.assert_close(quick, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("how", [{"plain": True}, {"precision": "float32"}, {"frozen": False}])
def test_where_they_are_not_used(how, monkeypatch):
    called = []
    monkeypatch.setattr("models.networks.use_fast_gradients", lambda body, dtype: called.append(dtype))
    how = {"precision": "bfloat16", "frozen": True} | how
    frozen = how.pop("frozen")
    load_network("tiny", Execution(torch.device("cpu"), **how), frozen=frozen)
    assert called == [torch.float32] * (how["precision"] == "float32")
