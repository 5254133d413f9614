"""A prompt for each class: the margins, the loss and its attack, and the prediction (C-AVP)."""

from argparse import ArgumentParser
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from conftest import load_script
from tiny import network_of
from torch import nn

from algorithms.class_wise_loss import ClassWiseLoss, margins
from algorithms.pieces import learns_from_whole_batches
from errors import UserError
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.several_prompts import PromptsOfClasses
from models.visual_prompt import AdditiveVisualPrompt
from tools.common.prompt_flags import add_margin_flags

THREE = [  # P by image, prompt and class; image i has label i
    [[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.1, 0.2, 0.7]],
    [[0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]],
    [[0.4, 0.4, 0.2], [0.3, 0.3, 0.4], [0.2, 0.2, 0.6]],
]
TWO = [[[0.7, 0.3], [0.4, 0.6]], [[0.2, 0.8], [0.1, 0.9]]]


def by_prompt(p: list) -> torch.Tensor:
    return torch.tensor(p).transpose(0, 1)


@pytest.mark.parametrize(("p", "expected"), [(THREE, [0.0, 0.4, -0.3]), (TWO, [-0.2, 0.1, -0.2])])
def test_the_three_margins(p, expected):
    p = by_prompt(p)
    found = margins(p, torch.arange(len(p)))
    torch.testing.assert_close(found, torch.tensor(expected))
    assert found.sum().item() == pytest.approx(sum(expected))


def plain_margins(p: torch.Tensor, labels: list[int], tau: float) -> list[float]:
    """The three sums, class by class and image by image."""
    classes, sums = range(len(p)), [0.0, 0.0, 0.0]
    for j in classes:
        others = [k for k in classes if k != j]
        mine = [b for b, label in enumerate(labels) if label == j]
        rest = [b for b, label in enumerate(labels) if label != j]
        for b in mine:
            sums[0] += max(max(float(p[k, b, k]) for k in others) - float(p[j, b, j]), -tau) / len(mine)
            sums[2] += max(max(float(p[k, b, j]) for k in others) - float(p[j, b, j]), -tau) / len(mine)
        for b in rest:
            sums[1] += max(float(p[j, b, j]) - max(float(p[j, b, k]) for k in others), -tau) / len(rest)
    return sums


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 1, 1], [2, 2, 0], [3, 3, 3], [1]])
def test_margins_of_batches_that_miss_classes(labels):
    p = torch.randn(4, len(labels), 4, generator=torch.Generator().manual_seed(0)).softmax(-1).double()
    found = margins(p, torch.tensor(labels))
    torch.testing.assert_close(found, torch.tensor(plain_margins(p, labels, 0.1), dtype=torch.float64))


class Answers(nn.Module):
    """Logits that are the pixels of the first row, one a class: log P of what the prompts say."""

    def forward(self, x):
        return x[:, 0, 0]


def model_of(num_classes: int, index: list[int] | None = None, num_source: int | None = None) -> Prompted:
    """Prompts of T columns, whose network's logits are the first row of pixels. They start at zero."""
    num_source = num_source or num_classes
    one = AdditiveVisualPrompt(torch.ones(num_source, num_source), torch.ones(3))
    prompt, mapping = PromptsOfClasses(one, num_classes, num_source), SelectLabels(num_classes)
    mapping.set(torch.tensor(index or range(num_classes)))
    prompt.labels.copy_(mapping.index)
    return Prompted(prompt, network_of(Answers(), num_source, num_source), mapping)


def randomly(model: Prompted, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    nn.init.normal_(model.prompt.program, std=0.3, generator=generator)
    side = model.network.input_size
    return torch.rand(count, 3, side, side, generator=generator)


def test_a_class_is_as_probable_as_its_own_prompt_says():
    """The diagonals are .5 .6 .7, .2 .8 .4 and .4 .3 .6: predicted are 2, 1 and 2."""
    p = by_prompt(THREE)
    model = model_of(3)
    model.prompt.log_probabilities = lambda network, x: p.log()
    model.prompt.under_all = lambda network, x: p.log()
    target = model(torch.zeros(3, 3, 3, 3))
    torch.testing.assert_close(target.exp(), torch.tensor([[0.5, 0.6, 0.7], [0.2, 0.8, 0.4], [0.4, 0.3, 0.6]]))
    assert target.argmax(1).tolist() == [2, 1, 2]
    assert model.prompt.choose(model.network, torch.zeros(3, 3, 3, 3)).tolist() == [2, 1, 2]


def test_class_probabilities_are_among_the_classes_labels_alone():
    model = model_of(2, index=[3, 1], num_source=5)
    images = randomly(model, 4)
    target, source = model(images, with_source=True)
    for column, label in enumerate([3, 1]):
        prompted = (images + model.prompt.program[column]).clamp(0, 1)
        expected = model.network(prompted)[:, [3, 1]].log_softmax(1)[:, column]
        torch.testing.assert_close(target[:, column], expected)
        assert torch.equal(source[:, label], target[:, column])
    assert source.shape == (4, 5)
    p = model.prompt.log_probabilities(model.network, images)
    assert p.shape == (2, 4, 2)
    torch.testing.assert_close(p.diagonal(dim1=0, dim2=2), target)


def test_prompted_images_stay_in_their_range():
    model = model_of(3)
    images = randomly(model, 2)
    model.prompt.program.data *= 100
    for prompted in (model.prompt(images), model.prompt(images, torch.tensor([2, 0]))):
        assert (prompted.min(), prompted.max()) == (0, 1)


def test_the_loss_is_a_mean_over_each_class_and_a_sum_over_classes():
    model, labels = model_of(4), torch.tensor([0, 3, 3, 0, 3])  # classes 1 and 2 have no image
    images = randomly(model, 5)
    loss, own = ClassWiseLoss(eps=0, steps=0).of_images(model, images, labels)
    p = model.prompt.log_probabilities(model.network, images)
    each = [-p[label, number, label] for number, label in enumerate(labels.tolist())]
    expected = (each[0] + each[3]) / 2 + (each[1] + each[2] + each[4]) / 3 + 3 * margins(p.exp(), labels).sum()
    torch.testing.assert_close(loss, 5 * expected)
    torch.testing.assert_close(own, model(images))


@pytest.mark.parametrize("chosen", [chosen for size in range(4) for chosen in combinations((1, 2, 3), size)])
def test_which_margins(chosen):
    model, labels = model_of(3), torch.tensor([0, 1, 2])
    images = randomly(model, 3)
    loss, _ = ClassWiseLoss(eps=0, steps=0, weight=0.5, margins=chosen).of_images(model, images, labels)
    p = model.prompt.log_probabilities(model.network, images)
    expected = -p[labels, range(3), labels].sum() + 0.5 * sum(margins(p.exp(), labels)[number - 1] for number in chosen)
    torch.testing.assert_close(loss, 3 * expected)


def test_margins_may_weigh_any_number_above_0(capsys):
    parser = ArgumentParser()
    add_margin_flags(parser)
    assert parser.parse_args(["--margin-weight", "2000"]).margin_weight == 2000
    with pytest.raises(SystemExit):
        parser.parse_args(["--margin-weight", "0"])
    assert "a number above 0 is needed, not '0'" in capsys.readouterr().err


def test_prompted_images_are_attacked_within_eps(monkeypatch):
    """The attack starts from the image under its class's prompt; the gradient passes it as if it added a constant."""
    seen = []

    def attack(loss, images, **how):
        seen.append((loss, images.detach().clone(), how))
        return (images + 0.125).detach()

    monkeypatch.setattr("algorithms.class_wise_loss.pgd", attack)
    model, labels = model_of(3), torch.tensor([2, 0, 0])
    images = 0.3 + 0.4 * randomly(model, 3)
    model.prompt.program.data *= 0.1
    plain, _ = ClassWiseLoss(eps=0.1, steps=0).of_images(model, images, labels)
    loss, _ = ClassWiseLoss(eps=0.1, steps=7).of_images(model, images, labels)
    ((attacked, start, how),) = seen
    assert how == {"eps": 0.1, "steps": 7, "step_size": pytest.approx(0.025)}
    torch.testing.assert_close(start, images + model.prompt.program[labels])
    each = F.cross_entropy(model.network(start + 0.125), labels, reduction="none")
    torch.testing.assert_close(loss - plain, 3 * (each[0] + (each[1] + each[2]) / 2))
    p = model.network(start).softmax(1)[range(3), labels]
    torch.testing.assert_close(attacked(start), torch.log((1 - p) / p))
    (gradient,) = torch.autograd.grad(loss - plain, model.prompt.program)
    assert gradient[1].abs().sum() == 0  # no image of class 1
    prompted = (images + model.prompt.program[labels]).detach().requires_grad_()
    each = F.cross_entropy(model.network(prompted + 0.125), labels, reduction="none")
    (own,) = torch.autograd.grad(3 * (each[0] + (each[1] + each[2]) / 2), prompted)
    torch.testing.assert_close(gradient, torch.stack([own[1] + own[2], 0 * own[0], own[0]]))


def test_a_real_attack_raises_the_loss():
    model, labels = model_of(3), torch.tensor([2, 0, 1])
    images = randomly(model, 3)
    losses = [ClassWiseLoss(eps=eps, steps=5).of_images(model, images, labels)[0] for eps in (0.0, 0.05, 0.2)]
    assert losses[0] < losses[1] < losses[2]


def test_batches_are_cut_in_evaluation_alone():
    model = model_of(3)
    assert learns_from_whole_batches(model.train())
    assert not learns_from_whole_batches(model.eval())


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr("algorithms.class_wise_loss.world_size", lambda: 2)
    with pytest.raises(UserError, match=r"2 processes are to train(.|\n)*Start one process"):
        ClassWiseLoss(eps=0.1, steps=1)


@pytest.mark.usefixtures("small")
def test_the_map_is_that_of_the_bare_network(words, monkeypatch):
    """It is made once. For a network of these very classes it is the identity."""
    module, seen = load_script("experiments/cnn/c_avp"), []
    make = module.frequency_label_mapping
    monkeypatch.setattr(module, "frequency_label_mapping", lambda counts: seen.append(counts) or make(counts))
    module.main([*words("experiments/cnn/c_avp"), "--epoch", "2"])
    (counts,) = seen
    assert counts.shape == (1000, 4)
    assert counts.sum() == 24
    assert make(torch.diag(torch.tensor([5, 6, 7, 8])) + 3).tolist() == [0, 1, 2, 3]
