"""ACAVP's prompt: the affine map by hand and pixel by pixel, the free region, gradients, and its step."""

import math

import pytest
import torch
import torch.nn.functional as F

from algorithms.normalized_gradient import NormalizedGradient
from models.affine_prompt import AffineColourVisualPrompt, affine_grid

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("float64")]


def warp(image, translation=(0.0, 0.0), angle=0.0, scale=(1.0, 1.0), shear=(0.0, 0.0)):
    grid = affine_grid(image.shape[-1], *map(torch.tensor, (translation, (angle,), scale, shear)))
    return F.grid_sample(image[None, None], grid, align_corners=True)[0, 0]


def plain_warp(image, translation, angle, scale, shear):
    """The forward map as a matrix, inverted, and bilinear interpolation of each pixel; black outside."""
    rotation = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    tan_x, tan_y = map(math.tan, shear)
    sheared = torch.tensor([[1, -tan_x], [-tan_y, 1 + tan_x * tan_y]])
    inverse = torch.linalg.inv(rotation @ torch.diag(torch.tensor(scale)) @ sheared)
    side, out = image.shape[-1], torch.zeros_like(image)
    for row in range(side):
        for column in range(side):
            x, y = (inverse @ (torch.tensor([column, row]) - torch.tensor(translation))).tolist()
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < side and 0 <= j < side:
                        out[row, column] += (1 - abs(y - i)) * (1 - abs(x - j)) * image[i, j]
    return out


def moved(canvas: int) -> AffineColourVisualPrompt:
    """A prompt whose parameters are all drawn."""
    torch.manual_seed(0)
    prompt = AffineColourVisualPrompt(canvas)
    for parameter in prompt.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    return prompt


def test_half_the_size_by_hand():
    image = torch.arange(1.0, 65).view(8, 8)
    block = torch.tensor([[1.0, 3, 5, 7], [17, 19, 21, 23], [33, 35, 37, 39], [49, 51, 53, 55]])
    torch.testing.assert_close(warp(image, scale=(0.5, 0.5)), F.pad(block, (0, 4, 0, 4)))
    torch.testing.assert_close(warp(image, (2.0, 0.0), scale=(0.5, 0.5)), F.pad(block, (2, 2, 0, 4)))
    torch.testing.assert_close(warp(image), image)


@pytest.mark.parametrize(
    "how",
    [
        ((0.0, 0.0), 0.1, (1.0, 1.0), (0.0, 0.0)),
        ((0.0, 0.0), 0.0, (0.8, 0.6), (0.07, 0.0)),
        ((0.0, 0.0), 0.0, (0.8, 0.6), (0.0, 0.07)),
        ((0.3, -0.2), -0.08, (0.9, 0.7), (0.1, -0.06)),
    ],
)
def test_the_map_equals_the_plain_version(how):
    torch.manual_seed(0)
    image = torch.rand(9, 9)
    torch.testing.assert_close(warp(image, *how), plain_warp(image, *how), rtol=1e-9, atol=1e-12)


def test_the_start_is_the_image_shrunk_to_73_percent_at_the_top_left():
    prompt, x = AffineColourVisualPrompt(224), torch.rand(1, 3, 224, 224) + 0.1
    assert torch.all((prompt(x) != 0)[..., :164, :164])
    assert prompt(x).count_nonzero() == 3 * 164**2
    expected = torch.ones(224, 224)
    expected[:164, :164] = 0
    assert torch.equal(prompt.mask, expected)
    assert expected.mean().item() == pytest.approx(0.464, abs=5e-4)
    small = AffineColourVisualPrompt(9)
    image = torch.rand(9, 9)
    shrunk = plain_warp(image, (0.0, 0.0), 0.0, (0.73, 0.73), (0.0, 0.0))
    torch.testing.assert_close(small(image.expand(1, 3, 9, 9))[0, 2], shrunk, rtol=1e-9, atol=1e-12)


def test_values_and_their_bounds():
    """The parameters' ends are the paper's largest translation, angle and shear, and its range of scale and gain."""
    prompt = AffineColourVisualPrompt(20)
    torch.testing.assert_close(prompt.gain, torch.ones(3, 20, 20))
    for parameter in prompt.parameters():
        parameter.data.fill_(50.0)
    torch.testing.assert_close(prompt.gain, torch.full((3, 20, 20), 6.0))
    largest = affine_grid(20, *map(torch.tensor, ((1.0, 1.0), (0.1,), (1.0, 1.0), (0.1, 0.1))))  # 5 % of 20 is 1
    torch.testing.assert_close(prompt.grid, largest)


def test_an_image_is_never_smaller_than_a_pixel():
    """A scale of 0 would give numbers that are not finite."""
    prompt = AffineColourVisualPrompt(8)
    prompt.scale.data.fill_(-1e4)
    out = prompt(torch.rand(1, 3, 8, 8) + 0.1)
    assert torch.nonzero(out[0, 0]).tolist() == [[0, 0]]
    out.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in prompt.parameters())


def test_the_formula_with_the_mask_of_the_parameters_alone():
    """The pixels of black images are not free: an image does not change the region of the prompt."""
    prompt = moved(16)
    black, x = torch.zeros(1, 3, 16, 16), torch.rand(2, 3, 16, 16)
    mask = prompt.mask
    assert 0.1 < mask.mean() < 0.9
    assert not mask.requires_grad
    torch.testing.assert_close(prompt(black)[0], prompt.program * mask)
    assert torch.equal((prompt(x + 1) != prompt(x))[0, 0], mask == 0)
    torch.testing.assert_close(prompt(torch.cat([black, x]))[1:], prompt(x))


@pytest.mark.parametrize("name", ["program", "colour", "translation", "angle", "scale", "shear"])
def test_gradients_against_finite_differences(name):
    prompt = moved(7)
    x, weights, parameter = torch.rand(2, 3, 7, 7), torch.randn(2, 3, 7, 7), getattr(prompt, name)

    def value() -> torch.Tensor:
        return (prompt(x) * weights).sum()

    value().backward()
    step, values = 1e-6, parameter.data.view(-1)
    for number in range(min(len(values), 12)):
        start, ends = values[number].item(), []
        for shift in (step, -step):
            values[number] = start + shift
            ends.append(value().item())
        values[number] = start
        expected = (ends[0] - ends[1]) / (2 * step)
        assert parameter.grad.view(-1)[number].item() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert parameter.grad.abs().max() > 1e-3


@pytest.mark.parametrize("loss_scale", [1.0, 65536.0])
def test_the_step_does_not_depend_on_the_scale_of_the_loss(loss_scale):
    """Length lr for the program; 0.001 lr for each element of the affine map, and at most that for the gain's."""
    prompt = moved(16)
    (loss_scale * (prompt(torch.rand(4, 3, 16, 16)) * torch.randn(4, 3, 16, 16)).sum()).backward()
    before = {name: parameter.detach().clone() for name, parameter in prompt.named_parameters()}
    groups = [{"params": [prompt.program]}, {"params": prompt.moving(), "lr": 20.0, "clip": 0.001}]
    NormalizedGradient(groups, lr=40.0, momentum=0.9).step()
    steps = {name: before[name] - parameter.detach() for name, parameter in prompt.named_parameters()}
    assert steps["program"].norm().item() == pytest.approx(40, rel=1e-9)
    assert torch.equal(steps["program"] != 0, prompt.program.grad != 0)
    for name in ("translation", "angle", "scale", "shear"):
        torch.testing.assert_close(steps[name], 0.02 * getattr(prompt, name).grad.sign())
    g = prompt.colour.grad
    torch.testing.assert_close(steps["colour"], 20 * (g / g.norm()).clamp(-0.001, 0.001), rtol=1e-7, atol=1e-12)
