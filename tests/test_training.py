"""The loop, against sums done by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from algorithms.training import NonFiniteLoss, cosine_schedule, evaluate, fit, step_schedule, train_one_epoch

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("float64")]


class Batches(list):
    """Batches as a loader gives them, with the labels of all."""

    @property
    def labels(self) -> torch.Tensor:
        return torch.cat([labels for _, labels in self])


def make_batches(sizes=(4, 4, 3), seed=0) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    return Batches(
        (torch.randn(n, 5, generator=generator, dtype=torch.float64), torch.randint(3, (n,), generator=generator))
        for n in sizes
    )


def scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", enabled=False)


def test_evaluate_shows_the_target_logits_that_it_counts():
    model, batches, seen = nn.Linear(5, 3), make_batches((4, 3)), []
    result = evaluate(model, batches, observe_targets=lambda *batch: seen.append(batch))
    logits, labels = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert torch.equal(labels, batches.labels)
    assert torch.equal(logits, torch.cat([model(x) for x, _ in batches]))
    assert (logits.argmax(1) == labels).double().mean().item() == pytest.approx(result["acc"])


def test_evaluate_is_the_mean_over_images_not_over_batches():
    model, batches = nn.Linear(5, 3), make_batches((4, 4, 1))
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        logits = model(x)
    result = evaluate(model, batches)
    assert result["loss"] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-12)
    assert result["acc"] == pytest.approx((logits.argmax(1) == y).sum().item() / 9)


def test_evaluate_changes_nothing_and_is_in_eval_mode():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.9), nn.Linear(4, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert evaluate(model.train(), make_batches()) == evaluate(model, make_batches())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_one_epoch_equals_steps_by_hand():
    torch.manual_seed(0)
    model, batches = nn.Linear(5, 3), make_batches()
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    result = train_one_epoch(model, batches, torch.optim.SGD(model.parameters(), lr=0.5), scaler())
    total, correct = 0.0, 0
    for x, y in batches:
        p = (x @ weight.T + bias).softmax(1)
        total += -p[range(len(y)), y].log().sum().item()
        correct += (p.argmax(1) == y).sum().item()
        error = (p - F.one_hot(y, 3)) / len(y)  # the gradient of mean cross-entropy, written out
        weight, bias = weight - 0.5 * error.T @ x, bias - 0.5 * error.sum(0)
    torch.testing.assert_close(model.weight.detach(), weight)
    torch.testing.assert_close(model.bias.detach(), bias)
    assert result == pytest.approx({"loss": total / 11, "acc": correct / 11, "images": 11}, rel=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_training(value):
    batches = make_batches()
    batches[1][0][0] = value
    model = nn.Linear(5, 3)
    with pytest.raises(NonFiniteLoss, match="images of this epoch"):
        train_one_epoch(model, batches, torch.optim.SGD(model.parameters(), lr=0.1), scaler())


def test_observers_see_every_label_once():
    class Model(nn.Linear):
        def forward(self, x, with_source=False):
            return (super().forward(x), 2 * x) if with_source else super().forward(x)

    model, batches, seen = Model(5, 3), make_batches(), []
    evaluate(model, batches, observe=lambda source, labels: seen.append((source, labels)))
    source, labels = map(torch.cat, zip(*seen, strict=True))
    assert torch.equal(labels, batches.labels)
    assert torch.equal(source, 2 * torch.cat([images for images, _ in batches]))


@pytest.mark.parametrize(("epochs", "drops"), [(200, (100, 144)), (10, (5, 7)), (3, (1, 2)), (2, (1, 1)), (1, (1, 1))])
def test_step_schedule(epochs, drops):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = step_schedule(optimizer, epochs)
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [1.0 if epoch < drops[0] else 0.1 if epoch < drops[1] else 0.01 for epoch in range(epochs)]
    assert rates == pytest.approx(expected)


def test_a_parameter_group_may_keep_its_rate():
    parameters = [torch.zeros(1, requires_grad=True) for _ in range(3)]
    optimizer = torch.optim.SGD([{"params": [each], "lr": 0.5**number} for number, each in enumerate(parameters)], lr=1)
    schedule = step_schedule(optimizer, 4, constant=[1])
    rates = []
    for _ in range(4):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert torch.tensor(rates).T.tolist() == [
        pytest.approx(row) for row in ([1, 1, 0.01, 0.01], [0.5] * 4, [0.25, 0.25, 0.0025, 0.0025])
    ]


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        (0, [1, 1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01]),
        (1, [1, 1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01]),
        (4, [0.25, 0.5, 0.75, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01]),
        (8, [0.125, 0.25, 0.375, 0.5, 0.625, 0.075, 0.0875, 0.01, 0.01, 0.01]),
        (20, [0.05, 0.1, 0.15, 0.2, 0.25, 0.03, 0.035, 0.004, 0.0045, 0.005]),
    ],
)
def test_a_warm_up_of_the_step_schedule(warmup, expected):
    parameters = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [each]} for each in parameters], lr=2.0)
    schedule = step_schedule(optimizer, 10, constant=[1], warmup=warmup)
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    alone = step_schedule(other, 10, warmup=warmup)
    rates = []
    for _ in range(10):
        rates.append([optimizer.param_groups[0]["lr"] / 2, other.param_groups[0]["lr"]])
        assert optimizer.param_groups[1]["lr"] == 2.0
        optimizer.step(), other.step()
        schedule.step(), alone.step()
    assert torch.tensor(rates).T.tolist() == [pytest.approx(expected)] * 2


class Loaders:
    def __init__(self, val):
        self.train, self.val, self.test = make_batches(seed=1), val, make_batches(seed=2)


@pytest.mark.parametrize("val", [None, make_batches(seed=3)])
def test_fit_records_every_epoch(val):
    model, calls, records = nn.Linear(5, 3), [], []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(
        model,
        Loaders(val),
        optimizer,
        step_schedule(optimizer, 4),
        epochs=4,
        seed=7,
        scaler=scaler(),
        start_epoch=1,
        on_epoch_start=lambda epoch: calls.append(epoch) or {"remapped": epoch / 10},
        on_epoch_end=lambda epoch, record: records.append((epoch, record)),
    )
    assert calls == [epoch for epoch, _ in records] == [1, 2, 3]
    splits = ("train", "test") if val is None else ("train", "val", "test")
    keys = {f"{split}_{name}" for split in splits for name in ("loss", "acc")}
    assert all(record.keys() == keys | {"remapped", "lr", "images_per_second", "seconds"} for _, record in records)
    assert records[-1][1]["test_acc"] == evaluate(model, Loaders(None).test)["acc"]


def test_what_an_epochs_training_leads_to_is_there_in_its_evaluation():
    """DVP's matrix. The loop has trained on 11 images, and evaluates what the hook has set."""
    model, seen = nn.Linear(5, 3), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-30)

    def trained(epoch: int) -> dict:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        return {"set_after": sum(map(len, seen))}

    records = []
    fit(
        _WithSource(model),
        Loaders(make_batches(seed=3)),
        optimizer,
        step_schedule(optimizer, 1),
        epochs=1,
        seed=7,
        scaler=scaler(),
        observe_train=lambda logits, labels: seen.append(labels),
        on_epoch_trained=trained,
        on_epoch_end=lambda epoch, record: records.append(record),
    )
    (record,) = records
    assert record["set_after"] == 11
    assert record["train_loss"] != pytest.approx(math.log(3))
    assert (record["val_loss"], record["test_loss"]) == pytest.approx((math.log(3), math.log(3)))


class _WithSource(nn.Module):
    """A model that gives its source logits on request: the images themselves."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor, with_source: bool = False):
        return (self.model(x), x) if with_source else self.model(x)


def test_an_epochs_randomness_depends_on_seed_and_epoch_alone():
    def draws(start: int, seed: int) -> list[float]:
        drawn = []

        class Noisy(nn.Linear):
            def forward(self, x):
                if self.training:
                    drawn.append(torch.rand(()).item())
                return super().forward(x)

        model = Noisy(5, 3)
        torch.rand(start + 1)  # whatever was drawn before does not matter
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        schedule = step_schedule(optimizer, 4)
        fit(model, Loaders(None), optimizer, schedule, epochs=4, seed=seed, scaler=scaler(), start_epoch=start)
        return drawn

    assert draws(0, 7)[3:] == draws(1, 7)
    assert draws(0, 7) != draws(0, 8)


def rates_of(length: int, warmup: int, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule, rates = cosine_schedule(optimizer, length, warmup), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_cosine_schedule():
    assert rates_of(4, 0, 5) == pytest.approx([2, 1 + math.cos(math.pi / 4), 1, 1 - math.cos(math.pi / 4), 0])
    assert rates_of(6, 2, 6) == pytest.approx([1, 2, 2, 1 + math.cos(math.pi / 4), 1, 1 - math.cos(math.pi / 4)])
    assert rates_of(3, 10, 3) == pytest.approx([0.2, 0.4, 0.6])  # shorter than its warm-up
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    torchs, rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50), []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        torchs.step()
    assert rates_of(50, 0, 50) == pytest.approx(rates)


@pytest.mark.parametrize(("each_step", "calls"), [(False, 2), (True, 6)])
def test_fit_steps_the_schedule_by_epoch_or_by_step(each_step, calls):
    model = nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = cosine_schedule(optimizer, 100)
    fit(model, Loaders(None), optimizer, schedule, epochs=2, seed=7, scaler=scaler(), schedule_steps=each_step)
    assert schedule.last_epoch == calls


def test_evaluation_draws_the_same_and_leaves_the_generator_alone():
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.randn(())

    model, batches = Noisy(5, 3), make_batches()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = evaluate(model, batches)
    assert torch.equal(torch.rand(3), expected)
    assert evaluate(model, batches) == first
