"""AReS: what the head learns from the answers, what the second stage sees, what is asked, and AReS-MS."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import same
from test_experiments import checkpoint, only_run
from tiny import TINY, network_of
from torch import nn

import cfg
from algorithms import priming
from algorithms.losses import kl_divergence
from algorithms.pieces import Pieces
from algorithms.priming import ServiceIsBetter, compare, train_head
from errors import UserError
from models.network_source import NETWORKS
from models.networks import CPU, load_network
from models.output_mapping import SelectLabels
from models.primed import PrimedNetwork
from models.prompted import Prompted
from models.services import LocalService, load_service, own_labels, zero_shot
from models.visual_prompt import ExpansiveVisualPrompt
from tools.common.run_folder import RunFolder

DEVICE = torch.device("cpu")
WORDS = ("--network", "tiny", "--dataset", "small", "--batch-size", 8, "--priming-epoch", 2)


# The first stage ------------------------------------------------------------------------------------------------------


def test_kl_divergence_by_hand():
    """t = (.7,.3) and a student of (.5,.5): .7 ln 1.4 + .3 ln .6. A probability of 0 adds nothing."""
    loss = kl_divergence(torch.zeros(1, 2), torch.tensor([[0.7, 0.3]]))
    assert loss.item() == pytest.approx(0.082283, abs=1e-6)
    both = kl_divergence(torch.zeros(2, 2), torch.tensor([[0.7, 0.3], [1.0, 0.0]]))
    assert both.item() == pytest.approx(0.082283 + math.log(2), abs=1e-6)


def test_its_gradient_is_student_minus_teacher():
    logits, teacher = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5).softmax(1)
    (gradient,) = torch.autograd.grad(kl_divergence(logits, teacher), logits)
    torch.testing.assert_close(gradient, logits.detach().softmax(1) - teacher)


@pytest.mark.numeric
def test_the_head_learns_as_a_plain_loop_does(float64):
    """AdamW with a decay of .01, a cosine over all steps, the mean over each batch, the last one smaller."""
    features, answers = torch.randn(10, 3), torch.randn(10, 4).softmax(1)
    head, plain = nn.Linear(3, 4), nn.Linear(3, 4)
    plain.load_state_dict(head.state_dict())
    torch.manual_seed(3)
    result = train_head(head, features, answers, device=DEVICE, epochs=2, batch_size=4, lr=0.1)

    torch.manual_seed(3)
    optimizer, step, losses = torch.optim.AdamW(plain.parameters(), lr=0.1, weight_decay=0.01), 0, []
    for _ in range(2):
        for positions in torch.randperm(10).split(4):
            optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * step / 6))
            student = plain(features[positions]).log_softmax(1)
            teacher = answers[positions]
            loss = (teacher * (teacher.log() - student)).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            losses.append(loss.item() * len(positions))
    torch.testing.assert_close(head.weight, plain.weight, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(head.bias, plain.bias, rtol=1e-9, atol=1e-9)
    assert result["primed_kl"] == pytest.approx(sum(losses[-3:]) / 10, rel=1e-9)
    assert not head.weight.requires_grad


def test_a_head_that_can_learn_the_answers_does():
    torch.manual_seed(0)
    features, teacher = torch.randn(200, 5), nn.Linear(5, 3).requires_grad_(False)
    result = train_head(nn.Linear(5, 3), features, teacher(features).softmax(1), device=DEVICE, epochs=60, lr=0.05)
    assert result["primed_kl"] < 0.01 and result["primed_agreement"] > 0.97


# The primed network ---------------------------------------------------------------------------------------------------


def test_a_primed_network_is_a_head_on_frozen_features():
    encoder = load_network("tiny", num_classes=0)
    network, images = PrimedNetwork(encoder, "abc"), torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(network(images), F.linear(encoder(images), network.head.weight, network.head.bias))
    assert list(network.saved) == ["head_dict"]
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert (network.class_names, network.input_size) == (("a", "b", "c"), 64)


@pytest.mark.numeric
def test_it_shares_the_border_as_other_networks_do():
    network = PrimedNetwork(load_network("tiny", num_classes=0), "abcd")
    model = Prompted(ExpansiveVisualPrompt(16, 64), network, SelectLabels(4))
    model.mapping.set(torch.arange(4))
    model.prompt.program.data.normal_()
    images = torch.rand(8, 3, 16, 16)
    assert model.shares_border
    shared = model(images)
    model.shares_border = False
    torch.testing.assert_close(model(images), shared, rtol=1e-4, atol=1e-4)


# Services on this machine ---------------------------------------------------------------------------------------------


def test_a_local_service_answers_each_image_once_and_for_all_runs():
    network, seen = load_network("tiny"), []
    images = torch.rand(3, 3, 64, 64)
    logits = network(images)
    network.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    service = LocalService(network, CPU)
    expected = service(images)
    torch.testing.assert_close(expected, logits)
    assert torch.equal(LocalService(network, CPU)(images.flip(0)), expected.flip(0))
    assert seen == [3] and service.questions.images == 3
    LocalService(network, replace(CPU, precision="bfloat16"))(images)
    assert seen == [3, 3]


def test_services_of_one_network_with_other_classes_are_others(monkeypatch):
    first = load_service("tiny", CPU)
    monkeypatch.setitem(NETWORKS, "named", replace(TINY, class_names=tuple(map(str, range(1000)))))
    assert load_service("named", CPU).fingerprint != first.fingerprint == load_service("tiny", CPU).fingerprint


def test_targets_are_found_by_name():
    assert own_labels(["Cow", "sea-lion", "ant"], ["ant", "sea lion"]) == [2, 1]
    with pytest.raises(UserError, match="no class called bee"):
        own_labels(["ant"], ["ant", "bee"])


# Runs -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ares(small, run_script):
    return lambda *more: run_script("experiments/cnn/ares", "--service", "tiny", *WORDS, "--epoch", 2, *more)


def lines(script: str = "experiments/cnn/ares") -> list[dict]:
    log = only_run(script) / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()]


def interrupt_after_an_epoch(run, monkeypatch) -> None:
    """Ctrl-C as soon as the first checkpoint is there."""
    end_epoch = RunFolder.end_epoch

    def interrupted(*args):
        end_epoch(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(UserError, match="Interrupted"):
        patch.setattr(RunFolder, "end_epoch", interrupted)
        run()


def test_one_question_for_each_training_image_and_none_for_the_test(ares):
    result = ares()
    counts = {"calls": 3, "images_asked": 24, "evaluation_calls": 0, "evaluation_images_asked": 0}
    assert {name: result[name] for name in counts} == counts
    assert (result["service"], result["primed_images"]) == ("tiny", 24)
    first, second = lines()
    assert first["primed_kl"] > 0 and 0 <= first["primed_agreement"] <= 1
    assert "primed_kl" not in second and (first["images_asked"], second["images_asked"]) == (24, 24)


def test_the_checkpoint_has_the_head_and_evaluates_and_predicts_alike(ares, run_script, small):
    result = ares()
    saved = only_run("experiments/cnn/ares") / "ckpt.pth"
    content = checkpoint(saved)
    assert content["head_dict"]["weight"].shape == (1000, 16 * 7 * 7)
    assert not {"network_dict"} & content.keys()
    assert run_script("tools/evaluate", "--checkpoint", saved)["acc"] == result["test_acc_last"]
    predicted = run_script("tools/predict", "--checkpoint", saved, small / "test", "--labels", "folders")
    assert predicted is not None


def test_going_on_in_the_second_stage_asks_and_learns_nothing_again(ares, monkeypatch):
    interrupt_after_an_epoch(ares, monkeypatch)
    head = checkpoint(only_run("experiments/cnn/ares") / "ckpt.pth")["head_dict"]
    monkeypatch.setattr(LocalService, "answer", None)
    monkeypatch.setattr(priming, "train_head", None)
    assert ares()["images_asked"] == 24
    assert same(checkpoint(only_run("experiments/cnn/ares") / "ckpt.pth")["head_dict"], head)


def test_the_second_stage_sees_the_same_images_or_all(ares):
    same_images, full = ares("--shots", 2), ares("--shots", 2, "--second-stage-data", "full")
    assert (same_images["images_asked"], same_images["primed_images"], same_images["train_size"]) == (8, 8, 8)
    assert (full["images_asked"], full["primed_images"], full["train_size"]) == (8, 8, 24)
    assert full["whole_data"]["train"] != full["data"]["train"] == same_images["data"]["train"]
    assert "whole_data" not in same_images
    with pytest.raises(UserError, match="All training images are asked"):
        ares("--second-stage-data", "full")


def test_an_interrupted_run_of_another_service_is_refused(ares, monkeypatch):
    interrupt_after_an_epoch(ares, monkeypatch)
    monkeypatch.setattr(LocalService, "__init__", other_fingerprint(LocalService.__init__))
    with pytest.raises(UserError, match=r"service_weights \w+, not another"):
        ares()


def other_fingerprint(init):
    def changed(self, *args):
        init(self, *args)
        self.fingerprint = "another"

    return changed


# AReS-MS --------------------------------------------------------------------------------------------------------------


class Pair(list):
    """Batches as validation images, or without such."""

    def __init__(self, batches, validation: bool):
        super().__init__(batches)
        self.val, self.train_as_eval = (self, None) if validation else (None, self)


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize(("right", "tolerance", "better"), [(2, 0.0, True), (2, 0.26, False), (3, 0.0, False)])
def test_the_service_wins_if_it_is_better_by_more_than_the_tolerance(right, tolerance, better, validation):
    """The network has 2 or 3 of 4 images right, the service 3."""
    labels = torch.tensor([0, 1, 0, 1])

    def model(correct: int) -> nn.Module:
        class Fixed(nn.Module):
            def forward(self, x):
                predicted = torch.where(torch.arange(4) < correct, labels, 1 - labels)
                return F.one_hot(predicted, 2).float()

        return Fixed()

    batches = Pair([(torch.zeros(4, 3, 2, 2), labels)], validation)
    expected = {"primed_acc": right / 4, "service_acc": 0.75}
    if better:
        with pytest.raises(ServiceIsBetter) as caught:
            compare(model(right), model(3), batches, batches, tolerance)
        assert caught.value.record == expected
    else:
        assert compare(model(right), model(3), batches, batches, tolerance) == expected


def test_both_are_compared_in_pieces():
    sizes = []

    def model(x):
        sizes.append(len(x))
        return F.one_hot(torch.zeros(len(x), dtype=torch.long), 2).float()

    models = [nn.Identity(), nn.Identity()]
    for each in models:
        each.forward = model
    batches = Pair([(torch.zeros(3, 3, 2, 2), torch.zeros(3, dtype=torch.long))], True)
    compare(*models, batches, batches, 0.0, Pieces(fast=(2, 2)))
    assert sizes == [2, 1, 2, 1]


def prefer(monkeypatch, service: float) -> None:
    """As if the network had half of the images right, and the service this fraction."""
    found = {"primed_acc": {"acc": 0.5}, "service_acc": {"acc": service}}
    monkeypatch.setattr(priming, "evaluate", lambda model, images, description, **_: found[description])


def test_a_better_service_is_the_result(small, run_script, words, monkeypatch, capsys):
    """Its accuracy is that of zero_shot.py; the checkpoint is the service; the same command tells it again."""
    prefer(monkeypatch, 0.6)
    template = ("--template", "A photo of a {}.")
    clip = tuple(word for word in words("experiments/clip/zero_shot") if word not in ("--dataset", "small"))
    ares = ("experiments/clip/ares", *WORDS, *clip, *template, "--epoch", 2, "--fallback", 0.05)
    result = run_script(*ares)
    alone = run_script("experiments/clip/zero_shot", "--dataset", "small", *clip, *template, "--batch-size", 8)
    for name in ("test_acc_last", "epochs", "test_size"):
        assert result[name] == alone[name]
    assert (result["primed_acc"], result["service_acc"], result["answered_by"]) == (0.5, 0.6, "service")
    assert (result["images_asked"], result["evaluation_images_asked"]) == (24, 20)
    assert "without training" in capsys.readouterr().out
    saved = only_run("experiments/clip/ares") / "best.pth"
    assert run_script("tools/evaluate", "--checkpoint", saved)["acc"] == result["test_acc_last"]
    assert run_script(*ares) == result


def test_a_better_service_stays_the_result_of_a_run_that_stopped_just_before_its_end(
    small, run_script, words, monkeypatch, capsys
):
    """The checkpoint is the service's. The same command neither asks nor learns again, and its receipt is the same."""
    prefer(monkeypatch, 0.6)
    words = ("experiments/clip/ares", *words("experiments/clip/ares"), "--epoch", 2, "--fallback", 0.05)
    whole, log = run_script(*words), lines("experiments/clip/ares")

    interrupt_after_an_epoch(lambda: run_script(*words, "--fresh"), monkeypatch)
    monkeypatch.setattr(LocalService, "answer", None)
    monkeypatch.setattr(priming, "train_head", None)
    again = run_script(*words)
    assert "Continuing after epoch 1" in capsys.readouterr().out
    assert without_times(again) == without_times(whole)
    assert list(map(without_times, lines("experiments/clip/ares"))) == list(map(without_times, log))


def without_times(record: dict) -> dict:
    return {name: value for name, value in record.items() if "second" not in name or name == "second_stage_data"}


def test_a_network_that_is_as_good_is_prompted(ares, monkeypatch):
    prefer(monkeypatch, 0.6)
    monkeypatch.setitem(NETWORKS, "own", replace(TINY, class_names=("doe", "cow", "bee", "ant", *map(str, range(996)))))
    result = ares("--service", "own", "--fallback", "0.11")
    assert (result["epochs"], result["answered_by"]) == (2, "local network")
    assert lines()[0]["service_acc"] == 0.6


def test_a_service_of_other_classes_cannot_be_the_result(ares):
    with pytest.raises(UserError, match="no class called cow, doe"):
        ares("--fallback")
    assert not list((cfg.results_path / "cnn").rglob("args.json"))


def test_zero_shot_selects_the_own_labels():
    network = network_of(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), 5, 4)
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(zero_shot(network, [4, 0])(images), network(images)[:, [4, 0]])
