"""Half precision: weights that are cast once give autocast's bits, and logits in float32 have no ties."""

from copy import deepcopy

import pytest
import torch
from conftest import Calls
from timm.layers import Conv2dSame
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from models.half import Float32Linear, halve_weights, round_keeping_sums
from models.networks import Execution, load_network

pytestmark = pytest.mark.numeric


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Conv2dSame(8, 8, 3, 2, groups=4, bias=False),
        nn.GroupNorm(2, 8),
        nn.Flatten(),
        nn.Linear(8 * 8 * 8, 7),
    )


def transformer() -> nn.Module:
    return VisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=7)


@pytest.mark.parametrize("make", [convolutional, transformer])
@pytest.mark.parametrize("gradient", [True, False])
def test_the_bits_are_autocasts(make, gradient):
    torch.manual_seed(0)
    body = make().eval().requires_grad_(False)
    halved = deepcopy(body)
    halve_weights(halved, torch.bfloat16)
    found = []
    for network in (body, halved):
        x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).requires_grad_(gradient)
        with Calls() as calls, torch.set_grad_enabled(gradient), torch.autocast("cpu", torch.bfloat16):
            logits = network(x)
        if gradient:
            logits.float().logsumexp(1).sum().backward()
        found.append((logits, x.grad, calls.names.count("aten._to_copy")))
    (expected, expected_gradient, casts), (logits, own_gradient, fewer) = found
    assert logits.dtype == torch.bfloat16 and torch.equal(logits, expected)
    assert not gradient or torch.equal(own_gradient, expected_gradient)
    layers = [layer for layer in halved.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    halves = [weight for layer in layers for weight in layer.parameters()]
    assert all(weight.dtype == torch.bfloat16 for weight in halves) and fewer == casts - len(halves)
    others = {id(weight) for weight in halved.parameters()} - set(map(id, halves))
    assert all(weight.dtype == torch.float32 for weight in halved.parameters() if id(weight) in others) and others


def test_rounding_keeps_the_sums_of_kernels():
    """1 + 2^-8 and 1 - 2^-9 lie half way between numbers of bfloat16; so the next weight has to take the error over."""
    kernel = torch.tensor([0.25, 1 + 2**-8, 0.0, 0.5]).view(1, 1, 2, 2)
    assert round_keeping_sums(kernel).flatten().tolist() == [0.25, 1.0, 0.0, 0.50390625]
    weight = torch.randn(64, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    found = round_keeping_sums(weight)
    assert found.dtype == torch.bfloat16 and found.shape == weight.shape
    exact = weight.double().sum((2, 3))
    error, usual = ((each.double().sum((2, 3)) - exact).abs() for each in (found, weight.bfloat16()))
    assert error.max() < 2**-9 and error.mean() < usual.mean() / 20
    assert (found.float() - weight).abs().max() < 2 * (weight.bfloat16().float() - weight).abs().max()


def test_only_depthwise_kernels_in_bfloat16_keep_their_sums():
    for groups, dtype in ((1, torch.bfloat16), (2, torch.bfloat16), (4, torch.float16)):
        layer = nn.Conv2d(4, 4, 3, groups=groups)
        expected = layer.weight.detach().to(dtype)
        halve_weights(layer, dtype)
        assert torch.equal(layer.weight, expected)
    layer = nn.Conv2d(4, 4, 3, groups=4)
    expected = round_keeping_sums(layer.weight.detach())
    halve_weights(layer, torch.bfloat16)
    assert torch.equal(layer.weight, expected)


class Normed(nn.Linear):
    """A layer that uses its weight in a function of its own."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight / self.weight.norm(dim=1, keepdim=True))


def test_other_layers_keep_their_weights():
    body = nn.Sequential(Normed(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Embedding(3, 4))
    halve_weights(body.requires_grad_(False), torch.bfloat16)
    assert {weight.dtype for weight in body.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("run", "frozen", "stored"),
    [
        ({"precision": "bfloat16"}, True, torch.bfloat16),
        ({"precision": "bfloat16", "compile": True}, True, torch.bfloat16),
        ({"precision": "bfloat16"}, False, torch.float32),
        ({"precision": "bfloat16", "plain": True}, True, torch.float32),
        ({}, True, torch.float32),
    ],
)
def test_what_is_stored(run, frozen, stored):
    network = load_network("tiny", Execution(torch.device("cpu"), **run), frozen=frozen)
    assert network.body.conv1.weight.dtype == network.body.conv2.bias.dtype == stored
    assert network.body.fc.weight.dtype == network.mean.dtype == network.std.dtype == torch.float32
    assert isinstance(network.body.fc, Float32Linear) == (frozen and "precision" in run)
    assert isinstance(network.body.bn1, nn.Identity) == (frozen and "plain" not in run)  # folded in every precision


@pytest.mark.parametrize("plain", [True, False])
def test_logits_of_half_precision_have_no_ties(plain):
    """The classifier's product of the same features, in bfloat16, gives many images two equal top logits."""
    network = load_network("tiny", Execution(torch.device("cpu"), "bfloat16", plain))
    features, fc = [], network.body.fc
    fc.register_forward_pre_hook(lambda layer, inputs: features.append(inputs[0]))
    with torch.no_grad():
        logits = network(torch.rand(100, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert features[0].dtype == torch.bfloat16
    assert torch.equal(logits, nn.functional.linear(features[0].float(), fc.weight, fc.bias))
    rounded = nn.functional.linear(features[0], fc.weight.bfloat16(), fc.bias.bfloat16())
    assert ties(rounded) > 0 == ties(logits)


def ties(logits: torch.Tensor) -> int:
    first, second = logits.topk(2, dim=1).values.T
    return int((first == second).sum())
