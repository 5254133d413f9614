"""SMM's prompt: its core by hand, its parameters, its start and its first step."""

import pytest
import torch
from tiny import network_of
from torch import nn

from errors import UserError
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.sample_specific import SampleSpecificVisualPrompt

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("float64")]
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
NEUTRAL = torch.zeros(3), torch.ones(3)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("layers", "count"), [(5, 26_499), (6, 102_339)])
def test_the_papers_numbers_of_parameters(layers, count):
    prompt = SampleSpecificVisualPrompt(224, MEAN, STD, mask_layers=layers)
    assert parameters(prompt.mask_network) == count
    assert prompt.program.numel() == 150_528
    assert SampleSpecificVisualPrompt(384, MEAN, STD, mask_layers=layers).program.numel() == 442_368
    one = SampleSpecificVisualPrompt(224, MEAN, STD, mask_channels=1, mask_layers=layers)
    last = {5: 64, 6: 128}[layers]
    assert parameters(one.mask_network) == count - (last * 3 * 9 + 3)  # the last convolution is left out


class Given(nn.Module):
    """Masks that do not depend on the image."""

    def __init__(self, masks):
        super().__init__()
        self.masks = masks

    def forward(self, x):
        return self.masks


def test_the_core_by_hand():
    prompt = SampleSpecificVisualPrompt(4, *NEUTRAL, patch_size=2, mask_channels=1)
    prompt.mask_network = Given(torch.tensor([[[[1.0, 2], [3, 4]]]]))
    prompt.program.data.fill_(0.5)
    rows = [[0.5, 0.5, 1, 1], [0.5, 0.5, 1, 1], [1.5, 1.5, 2, 2], [1.5, 1.5, 2, 2]]
    assert prompt(torch.zeros(1, 3, 4, 4))[0].tolist() == [rows] * 3


@pytest.mark.parametrize("channels", [3, 1])
def test_the_formula(channels):
    """Each value of the mask holds for a square; the mask of one channel is the mean of the last features."""
    prompt = SampleSpecificVisualPrompt(16, MEAN, STD, patch_size=4, mask_channels=channels).eval()
    nn.init.normal_(prompt.program)
    x = torch.rand(2, 3, 16, 16)
    mean, std = MEAN.double().view(3, 1, 1), STD.double().view(3, 1, 1)
    small = prompt.mask_network((x - mean) / std)
    assert small.shape == (2, 3 if channels == 3 else 64, 4, 4)
    small = small if channels == 3 else small.mean(1, keepdim=True)
    up = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close((prompt(x) - mean) / std, (x - mean) / std + prompt.program * up)
    assert len(torch.unique(up[0] - up[1])) > 1  # the masks of two images differ


@pytest.mark.parametrize(("patch", "layers"), [(1, 5), (2, 5), (4, 5), (8, 5), (16, 5), (8, 6), (32, 6)])
def test_the_masks_shape(patch, layers):
    prompt = SampleSpecificVisualPrompt(32, MEAN, STD, patch, mask_layers=layers).eval()
    x = torch.rand(2, 3, 32, 32)
    assert prompt.mask_network(x).shape == (2, 3, 32 // patch, 32 // patch)
    assert prompt.masks(x).shape == (2, 3, 32, 32)
    kinds = [type(module).__name__ for module in prompt.mask_network]
    block, halvings = ["Conv2d", "BatchNorm2d", "ReLU"], patch.bit_length() - 1
    expected = [*block, "MaxPool2d"] * halvings + block * (layers - 1 - halvings) + ["Conv2d"]
    assert kinds == expected  # the first convolutions halve the sides


def test_at_the_start_the_image_is_left_as_it_is_and_the_program_alone_learns():
    body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    mapping = SelectLabels(2)
    mapping.set(torch.tensor([3, 1]))
    prompt = SampleSpecificVisualPrompt(16, *NEUTRAL, patch_size=8)
    model = Prompted(prompt, network_of(body, 5, 16), mapping)
    x = torch.rand(4, 3, 16, 16)
    for mode in (True, False):
        assert torch.equal(model.train(mode).prompt(x), x)
    nn.functional.cross_entropy(model.train()(x), torch.tensor([0, 1, 0, 0])).backward()
    assert all(torch.all(parameter.grad == 0) for parameter in prompt.mask_network.parameters())
    # By hand: d loss / d h is (softmax - one-hot) @ the rows of the two source labels; times the masks, summed.
    with torch.no_grad():
        rows = body[1].weight[mapping.index]
        error = (model(x).softmax(1) - nn.functional.one_hot(torch.tensor([0, 1, 0, 0]), 2)) / 4
        expected = ((error @ rows).view(4, 3, 16, 16) * prompt.masks(x)).sum(0)
    running = prompt.mask_network[1].running_mean.clone()
    torch.testing.assert_close(prompt.program.grad, expected)
    assert running.abs().sum() > 0  # the statistics moved in training
    model.eval()(x)
    assert torch.equal(running, prompt.mask_network[1].running_mean)


@pytest.mark.parametrize(("canvas", "patch", "layers"), [(224, 32, 5), (299, 8, 5), (224, 3, 5)])
def test_sizes_that_do_not_fit(canvas, patch, layers):
    with pytest.raises(UserError, match=f"--patch-size {patch}"):
        SampleSpecificVisualPrompt(canvas, MEAN, STD, patch, mask_layers=layers)
