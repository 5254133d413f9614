"""AutoVP's image whose scale learns: its edges by hand, its hole, its gradient and its range."""

import pytest
import torch

from models.scaled_prompt import ScaledVisualPrompt
from models.visual_prompt import ExpansiveVisualPrompt

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("float64")]
NO_PROMPT = -100.0  # its sigmoid is zero


def plain_scale(image: torch.Tensor, scale: float) -> torch.Tensor:
    """The definition, pixel by pixel: bilinear interpolation about the middle of the canvas, black outside."""
    side = image.shape[-1]
    out, middle = torch.zeros_like(image), (side - 1) / 2
    for i in range(side):
        for j in range(side):
            y, x = (i - middle) / scale + middle, (j - middle) / scale + middle
            top, left = int(torch.floor(torch.tensor(y))), int(torch.floor(torch.tensor(x)))
            for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                if 0 <= row < side and 0 <= column < side:
                    out[..., i, j] += weight * image[..., row, column]
    return out


def without_program(image_size: int, canvas: int, scale: float) -> ScaledVisualPrompt:
    prompt = ScaledVisualPrompt(image_size, canvas, scale)
    prompt.program.data.fill_(NO_PROMPT)
    return prompt


def test_ones_by_hand():
    """4 x 4 ones on a canvas of 8, scale 1.5: a soft edge, products in the corners, a hole of 6 in the mask."""
    prompt = without_program(4, 8, 1.5)
    edge = torch.tensor([1 / 6, 5 / 6, 1, 1, 1, 1, 5 / 6, 1 / 6])
    torch.testing.assert_close(prompt(torch.ones(1, 3, 4, 4))[0], (edge[:, None] * edge).expand(3, -1, -1))
    hole = torch.tensor([0.0, 1, 1, 1, 1, 1, 1, 0])
    assert torch.equal(prompt.mask, 1 - hole[:, None] * hole)


@pytest.mark.parametrize(("image_size", "canvas", "scale"), [(4, 8, 1.0), (4, 8, 0.7), (3, 8, 1.9), (5, 9, 3.0)])
def test_the_resampling_equals_the_plain_version(image_size, canvas, scale):
    prompt = without_program(image_size, canvas, scale)
    x = torch.rand(2, 3, image_size, image_size)
    padded = torch.nn.functional.pad(x, prompt.padding)
    torch.testing.assert_close(prompt(x), plain_scale(padded, scale), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("scale", "hole", "before"),
    [(1.0, 4, 2), (1.3, 5, 1), (1.5, 6, 1), (1.99, 7, 0), (2.0, 8, 0), (5.0, 8, 0), (0.1, 0, 4)],
)
def test_the_hole_of_the_mask(scale, hole, before):
    mask = ScaledVisualPrompt(4, 8, scale).mask
    assert mask.sum() == 64 - hole**2
    assert torch.all(mask[before : before + hole, before : before + hole] == 0)
    assert not mask.requires_grad


def test_at_scale_1_it_is_the_expansive_prompt():
    prompt, reference = ScaledVisualPrompt(4, 8, 1.0), ExpansiveVisualPrompt(4, 8)
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(prompt(x), reference(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [0.83, 1.07, 1.44])
def test_the_scales_gradient_against_finite_differences(scale):
    """The hole jumps at whole numbers of pixels alone: none of these scales times 5 is one."""
    prompt = ScaledVisualPrompt(5, 8, scale)
    torch.nn.init.normal_(prompt.program)
    x, weights, step = torch.rand(2, 3, 5, 5), torch.randn(2, 3, 8, 8), 1e-6

    def value() -> torch.Tensor:
        return (prompt(x) * weights).sum()

    value().backward()
    ends = []
    for shift in (step, -2 * step):
        prompt.scale.data += shift
        ends.append(value().item())
    assert prompt.scale.grad.item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)
    assert prompt.scale.grad.abs() > 1e-3


@pytest.mark.parametrize(("direction", "end"), [(1.0, 0.1), (-1.0, 5.0)])
def test_the_scale_stays_in_its_range(direction, end):
    prompt = ScaledVisualPrompt(4, 8, 1.0)
    optimizer = torch.optim.SGD([prompt.scale], lr=100.0)
    optimizer.register_step_post_hook(prompt.keep_in_range)
    (direction * prompt.scale).backward()
    optimizer.step()
    assert prompt.scale.item() == pytest.approx(end)
    assert ScaledVisualPrompt(4, 8, 9.0).scale == 5.0
