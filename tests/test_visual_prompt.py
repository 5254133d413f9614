"""The geometry of the prompts, and where their gradient is."""

import pytest
import torch
from conftest import Calls
from tiny import network_of

from data.abide import lower_triangle
from errors import UserError
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.visual_prompt import (
    AdditiveVisualPrompt,
    ExpansiveVisualPrompt,
    LowRankVisualPrompt,
    NoVisualPrompt,
    PaddedVisualPrompt,
    RandomPatchVisualPrompt,
    corner,
    frame,
    scaled,
)

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("float64")]

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
    with pytest.raises(UserError, match=f"The images are {image_size} pixels wide, the input 64"):
        ExpansiveVisualPrompt(image_size, 64)


def test_prompted_is_mapping_after_network_after_prompt():
    network = network_of(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16, 7)), 7, 4)
    model = Prompted(AdditiveVisualPrompt(frame(4, 1), torch.ones(3)), network, SelectLabels(3))
    model.mapping.set(torch.tensor([6, 0, 3]))
    x = torch.rand(5, 3, 4, 4)
    assert torch.equal(model(x), network(model.prompt(x))[:, [6, 0, 3]])
    assert torch.equal(model(x, with_source=True)[1], network(model.prompt(x)))


class NoPart(torch.nn.Module):
    """A prompt that forgot to inherit."""


def test_a_prompt_that_is_no_part_is_told():
    with pytest.raises(UserError, match=r"NoPart: a prompt or an output mapping has to inherit from Part"):
        Prompted(NoPart(), network_of(torch.nn.Identity(), 7, 4), SelectLabels(3))


def test_a_prompt_of_another_size_is_told():
    model = Prompted(NoVisualPrompt(), network_of(torch.nn.Flatten(), 48, 4), SelectLabels(3))
    with pytest.raises(UserError, match=r"images of 4 x 4 pixels.\n.*\(2, 3, 5, 5\)"):
        model(torch.rand(2, 3, 5, 5))


def test_more_targets_than_source_labels_are_refused():
    network = network_of(torch.nn.Identity(), 7, 4)
    Prompted(NoVisualPrompt(), network, SelectLabels(7))
    with pytest.raises(UserError, match="The data set has 8 classes, the network 7"):
        Prompted(NoVisualPrompt(), network, SelectLabels(8))


@pytest.mark.parametrize(("pixels", "canvas", "expected"), [(30, 224, 30), (30, 336, 45), (30, 64, 9), (1, 32, 1)])
def test_scaled(pixels, canvas, expected):
    assert scaled(pixels, canvas) == expected


def test_frame_and_corner():
    assert frame(5, 1).tolist() == [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 0, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]
    assert frame(224, 30).sum() == 224**2 - 164**2  # times 3 channels: the 69,840 parameters that VP counts
    assert frame(4, 3).tolist() == [[1] * 4] * 4
    assert corner(3, 2).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert corner(3, 3).tolist() == [[1] * 3] * 3


def test_an_additive_prompt_adds_in_the_normalised_space():
    mean, std = torch.rand(3), torch.rand(3) + 0.1
    prompt = AdditiveVisualPrompt(frame(16, 3), std)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(prompt(images), images)  # zero at the start
    torch.nn.init.normal_(prompt.program)

    def normalised(x):
        return (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)

    expected = normalised(images) + frame(16, 3) * prompt.program
    torch.testing.assert_close(normalised(prompt(images)), expected, rtol=1e-10, atol=1e-12)
    assert prompt.state_dict().keys() == {"program", "mask"}
    assert prompt.mask.shape == (3, 16, 16)


def test_an_additive_prompts_gradient_is_in_its_mask_alone():
    prompt = AdditiveVisualPrompt(corner(8, 3), torch.tensor([1.0, 2.0, 3.0]))
    weights = torch.randn(3, 8, 8)
    (prompt(torch.rand(4, 3, 8, 8)) * weights).sum().backward()
    expected = 4 * weights * corner(8, 3) * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    torch.testing.assert_close(prompt.program.grad, expected)


@pytest.mark.parametrize(("image_size", "before", "after"), [(10, 3, 3), (11, 3, 2), (16, 0, 0), (1, 8, 7)])
def test_a_padded_prompt(image_size, before, after):
    prompt = PaddedVisualPrompt(image_size, frame(16, 3))
    images = torch.rand(2, 3, image_size, image_size)
    padded = torch.zeros(2, 3, 16, 16)
    padded[:, :, before : 16 - after, before : 16 - after] = images
    assert torch.equal(prompt(images), padded)
    weights = torch.randn(3, 16, 16)
    (prompt(images) * weights).sum().backward()
    torch.testing.assert_close(prompt.program.grad, 2 * weights)  # over the whole canvas, the image's part too
    torch.nn.init.constant_(prompt.program, 5.0)
    assert torch.equal(prompt(images), padded + 5)  # no clamp


def test_a_random_patch_equals_pasting_it_image_by_image():
    torch.manual_seed(3)
    prompt = RandomPatchVisualPrompt(3, 7, torch.tensor([1.0, 2.0, 3.0]))
    torch.nn.init.normal_(prompt.program)
    images = torch.rand(50, 3, 7, 7)
    torch.manual_seed(5)
    positions = torch.randint(5, (50, 2)).tolist()
    assert {tuple(one) for one in positions} > {(0, 0), (4, 4)}
    expected = images.clone()
    for image, (top, left) in zip(expected, positions, strict=True):
        image[:, top : top + 3, left : left + 3] += (
            torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1) * prompt.program.detach()
        )
    torch.manual_seed(5)
    torch.testing.assert_close(prompt(images), expected)
    torch.manual_seed(5)
    torch.testing.assert_close(torch.cat([prompt(part) for part in images.split(7)]), expected)  # whatever the batches


def test_a_random_patchs_gradient():
    prompt = RandomPatchVisualPrompt(3, 7, torch.ones(3))
    prompt(torch.rand(4, 3, 7, 7)).sum().backward()
    assert torch.equal(prompt.program.grad, torch.full((3, 3, 3), 4.0))


def test_a_random_patchs_gradient_is_the_slow_versions():
    prompt = RandomPatchVisualPrompt(3, 7, torch.tensor([1.0, 2.0, 3.0]))
    images, weights = torch.rand(2, 5, 3, 7, 7)
    torch.manual_seed(5)
    corners = torch.randint(5, (5, 2)).tolist()
    expected = sum(weights[i, :, top : top + 3, left : left + 3] for i, (top, left) in enumerate(corners))
    torch.manual_seed(5)
    (prompt(images) * weights).sum().backward()
    torch.testing.assert_close(prompt.program.grad, expected * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1))


def test_a_random_patchs_gradient_is_not_added_up_by_index():
    """CUDA sorts such indices, and adds up those of one pixel one after the other."""
    prompt = RandomPatchVisualPrompt(3, 7, torch.ones(3)).to("meta")
    with Calls() as calls:
        prompt(torch.rand(4, 3, 7, 7, device="meta")).sum().backward()
    assert not [name for name in calls.names if "index" in name]
    assert "aten.scatter" in calls.names and "aten.gather" in calls.names


def test_a_patch_as_large_as_the_image():
    prompt = RandomPatchVisualPrompt(7, 7, torch.ones(3))
    torch.nn.init.normal_(prompt.program)
    images = torch.rand(2, 3, 7, 7)
    torch.testing.assert_close(prompt(images), images + prompt.program)


def test_low_rank_by_hand():
    prompt = LowRankVisualPrompt(2, 1)
    assert prompt.left.shape == (3, 2, 1) and prompt.right.shape == (3, 1, 2)
    prompt.left.data, prompt.right.data = torch.tensor([[[1.0], [2]]] * 3), torch.tensor([[[3.0, 4]]] * 3)
    assert (prompt(torch.ones(1, 3, 2, 2)) - 1)[0].tolist() == [[[3, 4], [6, 8]]] * 3


def test_low_rank_at_the_start():
    """The image as it is; the first step moves `left` alone. The paper's prompt has 5,376 parameters."""
    prompt = LowRankVisualPrompt(224, 4)
    assert sum(parameter.numel() for parameter in prompt.parameters()) == 5_376
    assert prompt.right.std().item() == pytest.approx(0.01, rel=0.1)
    x, weights = torch.rand(2, 3, 224, 224), torch.randn(3, 224, 224)
    assert torch.equal(prompt(x), x)
    (prompt(x) * weights).sum().backward()
    assert torch.all(prompt.right.grad == 0)
    torch.testing.assert_close(prompt.left.grad, 2 * weights @ prompt.right.detach().transpose(1, 2))


@pytest.mark.parametrize("canvas", [224, 64, 299, 384])
def test_the_widest_frame_is_the_whole_image(canvas):
    """SMM's baselines: 28, 56 and 112 pixels of an input of 224."""
    assert torch.all(frame(canvas, scaled(112, canvas)) == 1)
    assert frame(224, 28).sum() == 224**2 - 168**2
    assert frame(224, 56).sum() == 224**2 - 112**2
