"""EVP's step against one written out by hand, and against what a mask in the forward pass would give."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import network_of
from torch import nn

from algorithms.normalized_gradient import NORMS, NormalizedGradient
from algorithms.training import cosine_schedule
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.visual_prompt import PaddedVisualPrompt, frame

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("float64")]
LR = 3.0


@pytest.fixture
def parts(float64):
    """A prompt of 2 pixels around 4 x 4 images, a network that sees all of it, a batch."""
    torch.manual_seed(0)
    prompt = PaddedVisualPrompt(4, frame(8, 2))
    network = network_of(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 36, 5)), 5, 8)
    model = Prompted(prompt, network, SelectLabels(3))
    model.mapping.set(torch.tensor([4, 0, 2]))
    return prompt, model, torch.rand(7, 3, 4, 4), torch.randint(3, (7,))


def by_hand(g: torch.Tensor, norm: str) -> torch.Tensor:
    """The step of the frame's pixels, one after the other."""
    values = g.flatten().tolist()
    size = {
        "l2": math.sqrt(sum(v * v for v in values)),
        "l1": sum(abs(v) for v in values),
        "linf": max(abs(v) for v in values),
        "none": 1.0,
    }[norm]
    step = torch.zeros_like(g)
    for c in range(3):
        for y in range(8):
            for x in range(8):
                if not (2 <= y < 6 and 2 <= x < 6):
                    step[c, y, x] = -LR * g[c, y, x].item() / (size + 1e-10)
    return step


@pytest.mark.parametrize("norm", NORMS)
def test_two_steps_by_hand(norm, parts):
    prompt, model, images, labels = parts
    optimizer = NormalizedGradient(prompt.program, prompt.mask, lr=LR, norm=norm)
    canvas = torch.zeros(3, 8, 8, requires_grad=True)  # the prompt written out: image in the middle, plus the canvas
    for _ in range(2):
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        logits = model.network(F.pad(images, (2, 2, 2, 2)) + canvas)[:, [4, 0, 2]]
        (g,) = torch.autograd.grad(-logits.log_softmax(1)[range(7), labels].mean(), canvas)
        canvas = (canvas + by_hand(g, norm)).detach().requires_grad_()
        torch.testing.assert_close(prompt.program.detach(), canvas.detach(), rtol=1e-10, atol=1e-12)
    assert torch.all(prompt.program[:, 2:6, 2:6] == 0)
    assert torch.all(prompt.program[prompt.mask == 1] != 0)


def test_a_mask_in_the_forward_pass_would_make_another_step(parts):
    prompt, model, images, labels = parts
    F.cross_entropy(model(images), labels).backward()
    g = prompt.program.grad
    assert torch.all(g[:, 2:6, 2:6] != 0)  # the pixels under the image are in the norm
    NormalizedGradient(prompt.program, prompt.mask, lr=1.0).step()
    assert (g * prompt.mask).norm() / (g.norm() + 1e-10) == pytest.approx(prompt.program.norm().item(), rel=1e-10)
    assert prompt.program.norm() < 0.99  # a step of masked gradients has length 1


def test_no_gradient_is_no_step(parts):
    prompt = parts[0]
    optimizer = NormalizedGradient(prompt.program, prompt.mask, lr=1.0)
    optimizer.step()
    prompt.program.grad = torch.zeros(3, 8, 8)
    optimizer.step()
    assert torch.all(prompt.program == 0)


def test_with_torchs_schedulers_and_a_closure(parts):
    prompt, model, images, labels = parts
    optimizer = NormalizedGradient(prompt.program, prompt.mask, lr=8.0, norm="linf")
    schedule = cosine_schedule(optimizer, 4)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    largest = []
    for _ in range(4):
        before = prompt.program.detach().clone()
        assert optimizer.step(closure) > 0
        g = prompt.program.grad
        fraction = (g * prompt.mask).abs().max() / (g.abs().max() + 1e-10)
        largest.append(((prompt.program - before).abs().max() / fraction).item())
        schedule.step()
    assert largest == pytest.approx([8 * 0.5 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)], rel=1e-10)


def test_its_state_can_be_saved(parts):
    prompt = parts[0]
    optimizer = NormalizedGradient(prompt.program, prompt.mask, lr=5.0)
    optimizer.param_groups[0]["lr"] = 2.0
    again = NormalizedGradient(prompt.program, prompt.mask, lr=5.0)
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[0]["lr"] == 2.0


def test_momentum_and_clip_by_hand():
    """Two parameters, each with its own norm: gradients (3, 4) and (0, -2); momentum 0.5; the second is clipped."""
    first, second = (torch.zeros(2, requires_grad=True) for _ in range(2))
    optimizer = NormalizedGradient([{"params": [first]}, {"params": [second], "clip": 0.25}], lr=10.0, momentum=0.5)
    for _ in range(2):
        first.grad, second.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.0, -2.0])
        optimizer.step()
    torch.testing.assert_close(first.detach(), -10 * 2.5 * torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(second.detach(), torch.tensor([0.0, 10 * 2.5 * 0.25]))
    again = NormalizedGradient([{"params": [first]}, {"params": [second]}], lr=1.0)
    again.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(again.state[first]["momentum_buffer"], torch.tensor([0.9, 1.2]))
    assert [(group["momentum"], group["clip"]) for group in again.param_groups] == [(0.5, math.inf), (0.5, 0.25)]


def test_infinite_gradients_leave_the_momentum_as_it_was():
    """As a gradient scaler has it: `grad_scale` divides, `found_inf` above 0 skips the step."""
    parameter = torch.zeros(2, requires_grad=True)
    optimizer = NormalizedGradient(parameter, lr=1.0, momentum=0.5)
    for found, g in ((0.0, [6.0, 8.0]), (1.0, [math.inf, math.nan]), (0.0, [6.0, 8.0])):
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(found)
        parameter.grad = torch.tensor(g)
        optimizer.step()
    torch.testing.assert_close(parameter.detach(), -2.5 * torch.tensor([0.6, 0.8]))


def test_the_state_of_the_version_before_can_be_loaded(parts):
    optimizer = NormalizedGradient(parts[0].program, parts[0].mask, lr=5.0)
    optimizer.load_state_dict({"state": {}, "param_groups": [{"lr": 2.0, "params": [0]}]})
    parts[0].program.grad = torch.ones(3, 8, 8)
    optimizer.step()
    torch.testing.assert_close(parts[0].program.detach(), -2 * parts[0].mask / 192**0.5)
