"""Several prompts against one prompt at a time."""

import pytest
import torch
from tiny import network_of
from torch import nn

from errors import UserError
from models.output_mapping import SelectLabels
from models.part import rebuilt
from models.prompted import Prompted
from models.several_prompts import PromptsOfLabels, SeveralPrompts, logits_under
from models.visual_prompt import AdditiveVisualPrompt, ExpansiveVisualPrompt, PaddedVisualPrompt, frame

UNIT = torch.tensor([0.5, 1.0, 2.0])
KINDS = {
    "additive": lambda: AdditiveVisualPrompt(frame(8, 2), UNIT),
    "expansive": lambda: ExpansiveVisualPrompt(5, 8),
    "padded": lambda: PaddedVisualPrompt(5, frame(8, 2)),
}
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())


def filled(make, count=3, cls=SeveralPrompts, *more) -> SeveralPrompts:
    prompts = cls(make(), count, *more)
    nn.init.normal_(prompts.program, generator=torch.Generator().manual_seed(1))
    return prompts


def one_at_a_time(make, prompts: SeveralPrompts, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Each image under a prompt of its own that was made anew."""
    images = []
    for image, number in zip(x, index.tolist(), strict=True):
        prompt = make()
        prompt.program.data = prompts.program[number].detach()
        images.append(prompt(image[None]))
    return torch.cat(images)


def pictures(make, count: int) -> torch.Tensor:
    side = 8 if make is KINDS["additive"] else 5
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(2))


@kinds
def test_each_image_under_its_own_prompt(make):
    prompts, x, index = filled(make), pictures(make, 5), torch.tensor([2, 0, 2, 1, 0])
    assert torch.equal(prompts(x, index), one_at_a_time(make, prompts, x, index))


@kinds
def test_all_images_under_all_prompts_prompt_after_prompt(make):
    prompts, x = filled(make), pictures(make, 2)
    expected = one_at_a_time(make, prompts, x.repeat(3, 1, 1, 1), torch.tensor([0, 0, 1, 1, 2, 2]))
    assert torch.equal(prompts(x), expected)


def test_prompts_that_no_image_has_get_no_gradient():
    make = KINDS["additive"]
    prompts, x = filled(make), torch.zeros(3, 3, 8, 8)
    prompts(x, torch.tensor([2, 0, 2])).sum().backward()
    once = (UNIT[:, None, None] * frame(8, 2)).expand(3, 8, 8)
    assert torch.equal(prompts.program.grad, torch.stack([once, 0 * once, 2 * once]))


def test_all_start_with_the_program_of_the_one_that_was_given():
    prompt = KINDS["padded"]()
    nn.init.normal_(prompt.program)
    prompts = SeveralPrompts(prompt, 2)
    assert torch.equal(prompts.program, torch.stack([prompt.program, prompt.program]))
    assert [name for name, _ in prompts.named_parameters()] == ["program"]
    assert prompts.state_dict().keys() == {"program", "prompt.mask"}


@kinds
def test_they_are_made_again_from_their_description(make):
    prompts, x = filled(make, 2, PromptsOfLabels, torch.tensor([0, 1, 1])), pictures(make, 2)
    again = rebuilt(prompts.described())
    again.load_state_dict(prompts.state_dict())
    assert torch.equal(again(x), prompts(x))
    assert torch.equal(again.prompt_of_label, prompts.prompt_of_label)


def test_a_labels_logit_is_that_under_its_own_prompt():
    logits = torch.tensor([[[1.0, 2, 3], [4, 5, 6]], [[10, 20, 30], [40, 50, 60]]])  # (n,B,S)
    assert logits_under(torch.tensor([0, 1, 0]), logits).tolist() == [[1, 20, 3], [4, 50, 6]]


def test_sentences_under_their_clusters_prompts():
    """Features (1,0) under prompt 0 and (0,1) under prompt 1, four sentences, scale 10; the class's mean follows."""
    sentences = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])

    class Clip(nn.Module):
        def forward(self, x):
            return 10 * x[:, :2, 0, 0] @ sentences.T

    prompts = PromptsOfLabels(AdditiveVisualPrompt(torch.ones(1, 1), torch.ones(3)), 2, torch.tensor([0, 0, 1, 1]))
    prompts.program.data = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).view(2, 3, 1, 1)
    mapping = SelectLabels(2, 2)
    mapping.set(torch.tensor([[0, 1], [2, 3]]))
    model = Prompted(prompts, network_of(Clip(), 4, 1), mapping)
    target, source = model(torch.zeros(1, 3, 1, 1), with_source=True)
    torch.testing.assert_close(source, torch.tensor([[10.0, 8, 10, 8]]))
    torch.testing.assert_close(target, torch.tensor([[9.0, 9]]))


def test_the_network_is_asked_once_a_batch():
    seen = []

    class Counting(nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return x.mean((2, 3))

    model = Prompted(
        filled(KINDS["additive"], 3, PromptsOfLabels, torch.tensor([2, 0, 1])),
        network_of(Counting(), 3, 8),
        SelectLabels(3),
    )
    assert model.source_logits(torch.rand(4, 3, 8, 8)).shape == (4, 3)
    assert seen == [12]


@pytest.mark.parametrize("numbers", [[0, 2], [-1, 0]])
def test_a_label_with_a_prompt_that_is_none_of_them(numbers):
    with pytest.raises(UserError, match=f"one of 2 prompts, counted from 0.\nThe numbers go from {min(numbers)} to"):
        PromptsOfLabels(KINDS["additive"](), 2, torch.tensor(numbers))
