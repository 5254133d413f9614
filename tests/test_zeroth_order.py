"""Optimizers that see values alone: the quadratics that were worked out by hand, and what a run needs of them."""

import math
from functools import partial

import pytest
import torch

from algorithms.losses import cross_entropy, focal_loss
from algorithms.zeroth_order import SPSA_GC, RandomGradientFree, gain_schedule, polynomial_schedule, segmented_uniform

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("float64")]


def given(*values):
    """Perturbations as written down, one after the other."""
    queue = [torch.tensor(value) for value in values]
    return lambda like: queue.pop(0)


def parameter(*values: float) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(values))


def rounded(value: float, like: str) -> str:
    """The value with as many significant digits as the text."""
    digits = len(like.replace(".", "").lstrip("0"))
    return f"{value:.{digits}g}"


def test_two_steps_of_spsa_on_a_square():
    w = parameter(1.0)
    optimizer = SPSA_GC([w], draws=1, perturbation=given([0.5], [-1.0]))
    schedule = gain_schedule(optimizer)
    for expected, momentum in ((0.9712014, 2.0), (0.9369804, 3.742403)):
        optimizer.step(lambda: w.detach().square().sum())
        schedule.step()
        assert w.item() == pytest.approx(expected, abs=5e-8)
        assert optimizer.state[w]["momentum_buffer"].item() == pytest.approx(momentum, abs=5e-7)


def quadratic(w: torch.Tensor) -> torch.Tensor:
    return w[0] ** 2 + 3 * w[1] ** 2


def test_two_steps_of_spsa_on_two_weights():
    w = parameter(1.0, -1.0)
    optimizer = SPSA_GC([w], draws=1, perturbation=given([0.5, -1.0], [-0.8, -0.6]))
    schedule = gain_schedule(optimizer)
    after = []
    for _ in range(2):
        optimizer.step(lambda: quadratic(w.detach()))
        schedule.step()
        after.append(w.tolist())
    assert after[0] == pytest.approx([0.798410, -0.899205], abs=5e-7)
    assert after[1] == pytest.approx([0.755327, -0.822679], abs=5e-7)
    assert optimizer.state[w]["momentum_buffer"].tolist() == pytest.approx([10.150398, -9.566137], abs=5e-7)


def test_spsa_averages_its_draws():
    w = parameter(1.0, -1.0)
    optimizer = SPSA_GC([w], lr=1.0, momentum=0.0, draws=2, perturbation=given([0.5, -1.0], [-0.75, -0.6]))
    optimizer.step(lambda: quadratic(w.detach()))
    assert (torch.tensor([1.0, -1.0]) - w).tolist() == pytest.approx([5.6, -5.25], abs=1e-9)


def test_the_sequence_of_gains():
    optimizer = SPSA_GC([parameter(0.0)], draws=1)
    factor = gain_schedule(optimizer).lr_lambdas[0]
    known = {1: "0.0075786", 2: "0.00644394", 10: "0.0038322", 100: "0.0015786", 1000: "0.00063071", 5000: "0.00033142"}
    assert {k: rounded(0.01 * factor(k - 1), text) for k, text in known.items()} == known
    assert rounded(optimizer.param_groups[0]["lr"], known[1]) == known[1]


@pytest.mark.parametrize(
    "c, gamma, known",
    [
        (0.01, 0.1, {1: "0.01", 10: "0.0079433", 100: "0.0063096", 1000: "0.0050119", 5000: "0.0042668"}),
        (0.005, 0.2, {1: "0.005", 10: "0.0031548", 100: "0.0019905", 1000: "0.0012559", 5000: "0.00091028"}),
    ],
)
def test_the_sequence_of_perturbations(c, gamma, known):
    w = parameter(0.0)
    optimizer = SPSA_GC([w], c=c, gamma=gamma, draws=1, perturbation=torch.ones_like)
    for k, text in known.items():
        seen = []

        def loss(seen=seen):
            seen.append(w.item())
            return torch.tensor(0.0)

        optimizer.param_groups[0]["step"] = k - 1
        optimizer.step(loss)
        assert rounded(seen[0], text) == text and seen[1] == -seen[0]
        assert optimizer.param_groups[0]["step"] == k


def test_spsa_moves_each_value_by_half_to_one_either_way():
    torch.manual_seed(0)
    p = segmented_uniform(torch.empty(10000))
    assert ((p.abs() >= 0.5) & (p.abs() < 1)).all()
    assert (p > 0).double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert p.abs().mean().item() == pytest.approx(0.75, abs=0.01)


def test_a_step_of_random_gradient_free_on_a_square():
    w = parameter(1.0, 2.0, 2.0)
    # a direction has any length; the step makes it a unit vector
    optimizer = RandomGradientFree([w], lr=0.1, draws=2, direction=given([1.2, 0.0, 1.6], [0.0, 1.0, 0.0]))
    assert optimizer.step(lambda: w.detach().square().sum()).item() == 9
    assert w.tolist() == pytest.approx([0.6031, 1.3985, 1.4708], abs=1e-9)


def test_a_direction_is_one_unit_vector_over_all_parameters():
    v, w = parameter(1.0), parameter(2.0, 2.0)
    directions = given([0.6], [0.0, 0.8], [0.0], [1.0, 0.0])
    optimizer = RandomGradientFree([v, w], lr=0.1, draws=2, direction=directions)
    optimizer.step(lambda: v.detach().square().sum() + w.detach().square().sum())
    assert [*v.tolist(), *w.tolist()] == pytest.approx([0.6031, 1.3985, 1.4708], abs=1e-9)


def test_the_polynomial_of_bars_rate():
    factor = polynomial_schedule(RandomGradientFree([parameter(0.0)], lr=5.0), 5000, 0.1).lr_lambdas[0]
    known = {1: "4.99902", 450: "4.55671", 2250: "2.72584", 4500: "0.1", 4750: "0.1", 5000: "0.1"}
    assert {k: rounded(5 * factor(k - 1), text) for k, text in known.items()} == known


@pytest.mark.parametrize(
    "logits, labels, mean",
    [([[2, 0, 0]], [0], 0.010869), ([[0, 1]], [0], 0.701868), ([[2, 0, 0], [0, 2, 0]], [0, 0], 0.899382)],
)
def test_the_focal_loss(logits, labels, mean):
    found = focal_loss(torch.tensor(logits, dtype=torch.float64), torch.tensor(labels))
    assert found.item() / len(labels) == pytest.approx(mean, abs=5e-7)


def test_the_focal_loss_without_focus_is_the_cross_entropy():
    logits, labels = torch.randn(5, 4), torch.randint(4, (5,))
    torch.testing.assert_close(focal_loss(logits, labels, gamma=0.0), cross_entropy(logits, labels))


OPTIMIZERS = {
    "spsa": lambda params: SPSA_GC(params, lr=0.05, momentum=0.5),
    "bar": lambda params: RandomGradientFree(params, lr=0.02),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_quadratic_in_twenty_dimensions_becomes_small(name):
    torch.manual_seed(0)
    w = torch.nn.Parameter(torch.ones(20))
    optimizer = OPTIMIZERS[name]([w])
    asked = []

    def loss():
        asked.append(1)
        return w.detach().square().sum()

    for _ in range(200):
        optimizer.step(loss)
    assert len(asked) == 200 * optimizer.evaluations
    assert w.detach().square().sum().item() < 0.05 * 20


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_optimizer_goes_on_to_the_bit(name):
    def steps(w, optimizer, schedule, epochs):
        for epoch in epochs:
            torch.manual_seed(epoch)
            for _ in range(2):
                optimizer.step(lambda: w.detach().square().sum())
                schedule.step()

    def make():
        w = parameter(1.0, -2.0, 3.0)
        optimizer = OPTIMIZERS[name]([w])
        return w, optimizer, gain_schedule(optimizer)

    whole = make()
    steps(*whole, range(3))
    first = make()
    steps(*first, range(2))
    second = make()
    with torch.no_grad():
        second[0].copy_(first[0])
    for one, other in zip(second[1:], first[1:], strict=True):
        one.load_state_dict(other.state_dict())
    steps(*second, range(2, 3))
    assert torch.equal(whole[0], second[0])
    assert math.isfinite(whole[0].norm().item())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_is_broken_off_leaves_the_parameters_as_they_were(name):
    w = parameter(1.0, 2.0)
    optimizer = OPTIMIZERS[name]([w])
    before, state = w.detach().clone(), optimizer.state_dict()
    answers = iter([torch.tensor(1.0)])
    with pytest.raises(StopIteration):
        optimizer.step(partial(next, answers))
    assert torch.equal(w, before)
    assert optimizer.state_dict() == state
