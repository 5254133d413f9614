"""PGD: steps worked out by hand, the exact bound, and what it leaves alone."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from algorithms.attack import log_odds_of_error, pgd

pytestmark = pytest.mark.numeric


def exact(tensor: torch.Tensor) -> list[Fraction]:
    return [Fraction(value) for value in tensor.flatten().tolist()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.0, 1 / 255, 4 / 255, 8 / 255, 0.1, 0.3, 1.0])
def test_no_pixel_moves_more_than_eps_or_leaves_the_range_in_exact_arithmetic(eps, dtype):
    torch.manual_seed(0)
    levels = torch.arange(256, dtype=dtype) / 255
    images = torch.cat([levels, torch.rand(1000, dtype=dtype), torch.rand(200, dtype=dtype) * 1e-4])[None]
    direction = torch.where(torch.rand(images.shape) < 0.5, -1.0, 1.0).to(dtype)
    for step_size in (None, 1.0):
        attacked = pgd(lambda x: x * direction, images, eps=eps, steps=3, step_size=step_size)
        assert attacked.dtype == dtype and not attacked.requires_grad
        changes = [abs(a - b) for a, b in zip(exact(attacked), exact(images), strict=True)]
        assert max(changes) <= Fraction(eps)
        assert min(exact(attacked)) >= 0 and max(exact(attacked)) <= 1
        best = (images + eps * direction).clamp(0, 1)  # a linear loss is largest in a corner
        assert torch.allclose(attacked, best, rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_each_step_follows_the_sign_of_the_gradient(monkeypatch):
    """Loss -(x - 0.4)^2 from the start 0.2 with steps of 0.15: 0.35, then 0.5, then back to 0.35.

    Loss -(x - 0.62)^2 with steps of 0.25: 0.45, then 0.7, which becomes 0.6, the end of the range; from there up again.
    """
    monkeypatch.setattr(torch, "rand", lambda shape, dtype: torch.zeros(shape, dtype=dtype))  # the start: the low end
    images = torch.full((1, 1), 0.4, dtype=torch.float64)
    for steps, expected in ((0, 0.2), (1, 0.35), (2, 0.5), (3, 0.35)):
        found = pgd(lambda x: -((x - 0.4) ** 2), images, eps=0.2, steps=steps, step_size=0.15)
        assert found.item() == pytest.approx(expected, abs=1e-12)
    found = pgd(lambda x: -((x - 0.62) ** 2), images, eps=0.2, steps=3, step_size=0.25)
    assert found.item() == pytest.approx(0.6, abs=1e-12)


def test_a_linear_classifier_is_moved_to_the_worst_corner():
    """Two classes with the logits 0 and w x + b: the worst image within eps has the margin less eps times |w|."""
    torch.manual_seed(0)
    weight = torch.randn(12, dtype=torch.float64)
    images, labels = 0.3 + 0.4 * torch.rand(5, 12, dtype=torch.float64), torch.ones(5, dtype=torch.int64)
    logits = lambda x: torch.stack([torch.zeros(len(x), dtype=x.dtype), x @ weight], 1)  # noqa: E731
    attacked = pgd(lambda x: F.cross_entropy(logits(x), labels), images, eps=0.1, steps=5)
    margin = logits(images)[:, 1] - 0.1 * weight.abs().sum()
    assert torch.allclose(logits(attacked)[:, 1], margin, atol=1e-9)


def test_the_start_is_random_and_comes_from_pytorchs_seed():
    images = torch.full((4, 3, 5, 5), 0.5)
    starts = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        starts.append(pgd(lambda x: x, images, eps=0.1, steps=0))
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])
    assert starts[0].min() < 0.41 and starts[0].max() > 0.59


def test_weights_get_no_gradient_and_images_stay_as_they_were():
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.rand(2, 3, 2, 2)
    before, labels = images.clone(), torch.tensor([0, 2])
    with torch.no_grad():  # as in an evaluation
        pgd(lambda x: F.cross_entropy(model(x), labels), images, eps=0.1, steps=2)
    assert torch.equal(images, before) and not images.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_log_odds_by_hand():
    """Probabilities 1/2, 1/3, 1/6: the odds of an error are 1, 2 and 5."""
    logits = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64).log().add(7.0).expand(3, 3)
    found = log_odds_of_error(logits, torch.tensor([0, 1, 2]))
    assert torch.allclose(found, torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).log())


def test_the_log_odds_have_cross_entropys_direction_also_where_it_has_none():
    def gradients(scale: float, labels: torch.Tensor) -> list[torch.Tensor]:
        logits = scale * x @ weight
        losses = F.cross_entropy(logits, labels, reduction="none"), log_odds_of_error(logits, labels)
        return [torch.autograd.grad(loss.sum(), x, retain_graph=True)[0] for loss in losses]

    torch.manual_seed(0)
    weight, x = torch.randn(20, 4, dtype=torch.float64), torch.rand(6, 20, dtype=torch.float64, requires_grad=True)
    of_entropy, of_odds = gradients(1.0, torch.randint(4, (6,)))
    assert torch.equal(of_entropy.sign(), of_odds.sign())
    of_entropy, of_odds = gradients(1e5, (x @ weight).argmax(1))  # all probabilities are 0 or 1
    assert (of_entropy == 0).all() and not (of_odds == 0).any()
