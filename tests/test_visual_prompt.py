"""The geometry of the expansive prompt, and where its gradient is."""

import pytest
import torch

from data.abide import lower_triangle
from models.prompted import Prompted
from models.visual_prompt import ExpansiveVisualPrompt

# image, canvas -> rows above and left of the image, rows below and right of it
GEOMETRY = [
    (32, 224, 96, 96),
    (128, 224, 48, 48),
    (200, 224, 12, 12),
    (223, 224, 1, 0),
    (224, 224, 0, 0),
    (33, 64, 16, 15),
    (128, 299, 86, 85),
]


@pytest.mark.parametrize(("image_size", "canvas", "before", "after"), GEOMETRY)
def test_image_lies_in_the_middle_and_the_prompt_around_it(image_size, canvas, before, after):
    prompt = ExpansiveVisualPrompt(image_size, canvas)
    torch.nn.init.normal_(prompt.program)
    images = torch.rand(2, 3, image_size, image_size)
    expected = torch.sigmoid(prompt.program).detach().repeat(2, 1, 1, 1)
    expected[:, :, before : canvas - after, before : canvas - after] = images
    out = prompt(images)
    assert out.shape == (2, 3, canvas, canvas)
    assert torch.equal(out, expected)
    assert prompt.mask.sum() == 3 * (canvas**2 - image_size**2)


def test_zero_program_is_mid_grey():
    out = ExpansiveVisualPrompt(2, 4)(torch.ones(1, 3, 2, 2))
    assert out[0, 0].tolist() == [[0.5, 0.5, 0.5, 0.5], [0.5, 1, 1, 0.5], [0.5, 1, 1, 0.5], [0.5, 0.5, 0.5, 0.5]]


@pytest.mark.parametrize(("image_size", "canvas"), [(32, 64), (33, 64), (63, 64), (64, 64)])
def test_gradient_only_on_the_border(image_size, canvas):
    prompt = ExpansiveVisualPrompt(image_size, canvas)
    weights = torch.randn(3, canvas, canvas)
    (prompt(torch.rand(4, 3, image_size, image_size)) * weights).sum().backward()
    inside = prompt.mask == 0
    assert torch.all(prompt.program.grad[inside] == 0)
    # by hand: the derivative of sigmoid at 0 is 1/4, summed over 4 images
    torch.testing.assert_close(prompt.program.grad[~inside], weights[~inside])


def test_abide_learns_on_and_below_the_diagonal_too():
    prompt = ExpansiveVisualPrompt(200, 224, lower_triangle())
    window = prompt.mask[:, 12:212, 12:212]
    assert torch.equal(window, torch.tril(torch.ones(3, 200, 200)))
    assert prompt.mask.sum() == 3 * (224**2 - 200 * 199 // 2)
    image = torch.triu(torch.rand(200, 200), diagonal=1).expand(1, 3, 200, 200)
    inner = prompt(image)[0, :, 12:212, 12:212]
    assert torch.equal(inner, image[0] + 0.5 * torch.tril(torch.ones(200, 200)))


def test_inputs_are_not_changed():
    images = torch.rand(2, 3, 8, 8)
    before = images.clone()
    ExpansiveVisualPrompt(8, 16)(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("image_size", [0, 65])
def test_an_image_that_does_not_fit_is_refused(image_size):
    with pytest.raises(ValueError, match="does not fit"):
        ExpansiveVisualPrompt(image_size, 64)


def test_prompted_is_mapping_after_network_after_prompt():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16, 7))
    model = Prompted(ExpansiveVisualPrompt(2, 4), network, 3)
    assert model.mapping.tolist() == [-1, -1, -1]
    assert model.set_mapping(torch.tensor([6, 0, 2])) == 1.0
    assert model.set_mapping(torch.tensor([6, 0, 3])) == pytest.approx(1 / 3)
    x = torch.rand(5, 3, 2, 2)
    assert torch.equal(model(x), network(model.prompt(x))[:, [6, 0, 3]])
    assert model.named_mapping("abcdefg", ["x", "y", "z"]) == {"x": "g", "y": "a", "z": "d"}
