"""A network that only answers: what it hides, what it counts, and where its budget ends."""

import argparse
import itertools
import json
import time

import pytest
import torch
from tiny import TINY, network_of
from torch import nn

import cfg
from algorithms.pieces import Pieces
from algorithms.training import evaluate, fit, train_one_epoch
from algorithms.zeroth_order import SPSA_GC
from errors import BudgetSpent, UserError
from models.black_box import BlackBox, Questions
from models.networks import CPU, Network
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.visual_prompt import ExpansiveVisualPrompt
from tools.common.asked import Asked
from tools.evaluating.attacking import attacked_model


class Splits:
    def __init__(self, batches):
        self.train, self.val, self.test = batches, None, batches


def scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", enabled=False)


def small() -> Network:
    torch.manual_seed(0)
    return network_of(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5)), 5, 8)


def batches(sizes=(4, 4, 2)) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.rand(size, 3, 4, 4, generator=generator), torch.randint(3, (size,), generator=generator))
        for size in sizes
    ]


def prompted(**budget) -> Prompted:
    model = Prompted(ExpansiveVisualPrompt(4, 8), BlackBox(small(), **budget), SelectLabels(3))
    model.mapping.set(torch.arange(3))
    return model


def test_it_answers_as_the_network_does_and_gives_no_gradient():
    network = small()
    box, images = BlackBox(network), torch.rand(2, 3, 8, 8, requires_grad=True)
    answer = box(images)
    assert torch.equal(answer, network(images)) and not answer.requires_grad
    assert (box.class_names, box.input_size) == (network.class_names, 8)
    assert not list(box.parameters()) or not any(parameter.requires_grad for parameter in box.parameters())


def test_a_network_that_learns_is_refused():
    with pytest.raises(UserError, match="does not learn"):
        BlackBox(Network(TINY.build(), TINY, CPU, frozen=False, setup={}))


def test_training_and_evaluation_are_counted_apart():
    box = BlackBox(small())
    for mode, size in ((True, 3), (False, 2), (True, 1)):
        box.train(mode)
        box(torch.rand(size, 3, 8, 8))
    counts = {"calls": 2, "images_asked": 4, "evaluation_calls": 1, "evaluation_images_asked": 2}
    assert box.questions.record == counts


def test_what_a_subclass_answers_is_all_it_needs():
    class Described:
        class_names, input_size, setup = ("a", "b"), 8, {}
        mean, std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)

    class Service(BlackBox):
        def answer(self, images):
            return images.mean((2, 3))[:, :2]

    model = Prompted(ExpansiveVisualPrompt(4, 8), Service(Described()), SelectLabels(2))
    model.mapping.set(torch.arange(2))
    assert model(torch.rand(3, 3, 4, 4)).shape == (3, 2)
    assert model.network.questions.record["images_asked"] == 3


def test_a_batch_in_pieces_is_one_call():
    network, images = small(), torch.rand(5, 3, 8, 8)
    whole, pieces = BlackBox(network), BlackBox(network, pieces=Pieces(fast=(2, 2)))
    sizes = []
    network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    torch.testing.assert_close(pieces(images), whole(images))
    assert sizes == [2, 2, 1, 5]
    assert pieces.questions.record == whole.questions.record


@pytest.mark.parametrize("budget", [1e9, 1.0])
def test_the_loop_neither_cuts_nor_measures_a_model_with_a_black_box(budget):
    model = prompted()
    assert len(Pieces(lambda: budget).compute(model, lambda x, y: model(x), *batches()[0])) == 1
    assert model.network.questions.record["images_asked"] == 4


def test_a_budget_of_calls_or_images_refuses_what_is_beyond():
    for questions in (Questions(calls=2), Questions(images=7)):
        questions.count(4, training=True)
        questions.count(3, training=True)
        with pytest.raises(BudgetSpent):
            questions.count(1, training=True)
        questions.count(100, training=False)
        assert questions.record["images_asked"] == 7 and questions.spent


def test_after_one_refusal_all_are_refused():
    questions = Questions(images=7)
    questions.count(4, training=True)
    for size in (4, 1):
        with pytest.raises(BudgetSpent):
            questions.count(size, training=True)


@pytest.mark.parametrize("budget, steps", [({"calls": 25}, 4), ({"images": 128}, 4), ({}, 300), ({"calls": 5}, 1)])
def test_how_many_steps_a_budget_pays(budget, steps):
    """Three batches of 5, 5 and 4 images: the last one of a pass may be smaller."""

    class Loader(list):
        labels, passes = range(14), 1

    assert Questions(**budget).steps(6, Loader(range(3)), epochs=100) == steps


def test_the_counts_go_on_after_loading():
    first, second = Questions(calls=3), Questions(calls=3)
    first.count(2, training=True)
    first.count(5, training=False)
    second.load_state_dict(first.state_dict())
    assert second.record == first.record
    second.count(2, training=True)
    assert second.record["calls"] == 2


def spsa(model) -> SPSA_GC:
    return SPSA_GC(model.prompt.parameters(), lr=0.1, draws=2)


def test_a_step_asks_as_often_as_its_optimizer_evaluates():
    model = prompted()
    result = train_one_epoch(model, batches(), spsa(model), scaler())
    counts = {"calls": 3 * 4, "images_asked": 10 * 4, "evaluation_calls": 0, "evaluation_images_asked": 0}
    assert model.network.questions.record == counts
    assert set(result) == {"loss", "acc", "images"} and result["images"] == 10
    evaluate(model, batches())
    assert model.network.questions.record == counts | {"evaluation_calls": 3, "evaluation_images_asked": 10}


def test_the_first_evaluation_of_a_step_is_summed_up_and_observed():
    model, seen = prompted(), []
    optimizer = SPSA_GC(model.prompt.parameters(), draws=2, c=1e-12, lr=1e-12)  # it stays where it is
    result = train_one_epoch(model, batches(), optimizer, scaler(), observe=lambda *batch: seen.append(batch))
    assert [len(labels) for _, labels in seen] == [4, 4, 2]
    assert result == pytest.approx(evaluate(model, batches()) | {"images": 10}, rel=1e-5)


def test_all_evaluations_of_a_step_draw_the_same_random_numbers():
    """Else the loss would change by them, such as by the positions of VP's random patch, and not by what is learned."""
    drawn = []

    class Drawing(nn.Linear):
        def forward(self, x):
            drawn.append(torch.rand(()).item())
            return super().forward(x)

    model = nn.Sequential(nn.Flatten(), Drawing(48, 3))
    moved = []
    optimizer = SPSA_GC(
        model.parameters(), draws=2, perturbation=lambda like: moved.append(torch.rand(like.shape)) or 1 + moved[-1]
    )
    train_one_epoch(model, batches(), optimizer, scaler())
    assert [len(set(drawn[step : step + 4])) for step in (0, 4, 8)] == [1, 1, 1] and len(set(drawn)) == 3
    assert len({float(move.flatten()[0]) for move in moved}) == len(moved) == 3 * 2 * 2  # each draw moves otherwise


def test_pieces_of_a_loss_without_gradient_add_up():
    programs = []
    for pieces in (None, Pieces(fast=(1, 2))):
        model = Prompted(ExpansiveVisualPrompt(4, 8), small(), SelectLabels(3))
        model.mapping.set(torch.arange(3))
        torch.manual_seed(1)
        train_one_epoch(model, batches(), spsa(model), scaler(), pieces=pieces)
        programs.append(model.prompt.program)
    torch.testing.assert_close(*programs)


def run(model, epochs=4, start_epoch=0, parts=None):
    records = []
    optimizer, scheduler = parts or (spsa(model), None)
    scheduler = scheduler or torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    how = {"epochs": epochs, "seed": 1, "scaler": scaler(), "start_epoch": start_epoch}
    fit(model, Splits(batches()), optimizer, scheduler, on_epoch_end=lambda _, record: records.append(record), **how)
    return records


def test_past_the_budget_training_ends_with_the_epoch_that_it_paid_a_part_of():
    model = prompted(calls=12 + 4 + 1)  # an epoch, a step, and less than a step
    assert len(run(model)) == 2
    assert model.network.questions.record["calls"] == 17
    assert model.network.questions.record["evaluation_calls"] == 6


def test_an_epoch_that_the_budget_cuts_is_as_fast_as_what_it_trained_on(monkeypatch):
    seconds = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))  # so each training takes a second
    assert [record["images_per_second"] for record in run(prompted(calls=12 + 4 + 1))] == [10, 4]


def test_an_epoch_without_a_step_is_left_out():
    model = prompted(calls=12)
    before = len(run(model))
    assert before == 1 and model.network.questions.spent
    assert run(model, start_epoch=1) == []  # a run that was killed just before its end


def test_the_steps_within_the_budget_are_those_without_one():
    free, bound = prompted(), prompted(calls=12)
    run(free, epochs=1)
    run(bound)
    assert torch.equal(free.prompt.program, bound.prompt.program)


def test_the_loss_that_is_minimised_can_be_another():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    before = model[1].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    result = train_one_epoch(model, batches(), optimizer, scaler(), loss=lambda logits, labels: 0 * logits.sum())
    assert result["loss"] == 0 and torch.equal(model[1].weight, before)


# Whole runs ---------------------------------------------------------------------------------------------------------

BAR = ("experiments/cnn/bar", "--network", "tiny", "--dataset", "small", "--batch-size", 8, "--passes", 1)


@pytest.mark.usefixtures("small")
def test_a_run_ends_with_its_budget_and_says_so(run_script, capsys):
    """A map of 3 batches, then 2 questions a step and 3 steps an epoch: 3 + 6 + 4, and one that no step came of."""
    result = run_script(*BAR, "--draws", 1, "--epoch", 9, "--budget", 14)
    run = next((cfg.results_path / "cnn/bar").iterdir())
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["calls"] for line in log] == [9, 14]
    assert [line["images_asked"] for line in log] == [72, 112]
    assert [line["evaluation_images_asked"] for line in log] == [32, 64]
    expected = {"status": "finished", "epochs_done": 2, "calls": 14, "images_asked": 112, "budget_spent": True}
    assert expected.items() <= result.items() and json.loads((run / "result.json").read_text()) == result
    out = capsys.readouterr().out
    assert "The budget --budget 14 is spent: training ends in epoch 2, as a finished run." in out
    assert "after the last epoch (2)" in out and "Training asked 14 times, 112 images in all." in out
    assert "  calls 9 images asked 72  " in out.splitlines()[0]
    assert torch.load(run / "ckpt.pth", weights_only=True)["questions_dict"]["spent"]
    assert run_script("tools/evaluate", "--checkpoint", run / "ckpt.pth")["acc"] == result["test_acc_last"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("budget", [("--budget", 2), ("--budget", 4), ("--budget-images", 30)])
def test_a_budget_that_pays_no_step_is_a_mistake(budget, run_script):
    with pytest.raises(UserError, match=r"is spent before the first step") as caught:
        run_script(*BAR, "--epoch", 2, *budget)
    assert " ".join(map(str, budget)) in str(caught.value) and caught.value.exit_code == 2
    assert not list(cfg.results_path.rglob("result.json"))


@pytest.mark.usefixtures("small")
def test_a_run_without_a_budget_counts_all_the_same(run_script):
    result = run_script(*BAR, "--draws", 1, "--epoch", 2)
    assert (result["calls"], result["budget_spent"]) == (3 + 2 * 6, False)


def test_a_black_box_and_gradients_do_not_fit_together():
    model = prompted()
    with pytest.raises(UserError, match="Adam trains by gradients"):
        Asked(None, model, torch.optim.Adam(model.prompt.parameters()))


def test_several_processes_are_refused(monkeypatch):
    model = prompted()
    monkeypatch.setattr("tools.common.asked.world_size", lambda: 2)
    with pytest.raises(UserError, match="SPSA_GC evaluates the loss of whole batches"):
        Asked(None, model, spsa(model))
    Asked(None, small(), torch.optim.SGD([torch.zeros(1)]))  # several processes may train by gradients


def test_it_cannot_be_attacked():
    with pytest.raises(UserError, match="This network only answers"):
        attacked_model(argparse.Namespace(attack_without_prompt=False), prompted(), 3)
