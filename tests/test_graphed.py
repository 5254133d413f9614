"""CUDA graphs without CUDA: `Eager` stands in for the recorder. It does the work anew, into the tensors of before."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from conftest import load_script
from test_experiments import only_run
from tiny import TINY, network_of
from torch import Tensor, nn

import models.graphed
import models.networks
from algorithms.pieces import Pieces
from algorithms.training import train_one_epoch
from errors import RunError, UserError
from models.graphed import Graphed
from models.networks import Execution, load_network
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.scaled_prompt import ScaledVisualPrompt
from models.visual_prompt import (
    AdditiveVisualPrompt,
    ExpansiveVisualPrompt,
    LowRankVisualPrompt,
    NoVisualPrompt,
    PaddedVisualPrompt,
    RandomPatchVisualPrompt,
    frame,
)
from tools.common import run

pytestmark = pytest.mark.numeric


class Eager:
    """What `Recorder` promises, on the CPU: the tensors of the first time are written over by every replay."""

    captured = 0

    def __init__(self, device: torch.device):
        self.warm = False

    def warm_up(self, work: Callable) -> None:
        work()
        self.warm = True

    def capture(self, work: Callable) -> tuple[list[Tensor], Callable]:
        assert self.warm
        Eager.captured += 1
        results, learns = [result.detach().clone() for result in work()], torch.is_grad_enabled()

        def replay() -> None:
            with torch.set_grad_enabled(learns):  # kernels do not ask in which mode they are launched
                new = work()
            for result, value in zip(results, new, strict=True):
                result.copy_(value.detach())

        return results, replay


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    monkeypatch.setattr(models.graphed, "Recorder", Eager)
    monkeypatch.setattr(Eager, "captured", 0)


def prompted(prompt: nn.Module, cuda_graph: bool, share: bool = False) -> Prompted:
    how = Execution(torch.device("cpu"), share_border=share, cuda_graph=cuda_graph)
    model = Prompted(prompt, load_network("tiny", how), SelectLabels(4))
    model.mapping.set(torch.tensor([5, 900, 3, 4]))
    return model


def step(model: Prompted, x: Tensor) -> tuple[Tensor, Tensor]:
    model.prompt.zero_grad()
    logits = model(x)
    F.cross_entropy(logits, torch.arange(len(x)) % 4, reduction="sum").backward()
    return logits.detach(), next(model.prompt.parameters()).grad


def filled(x: Tensor, size: int) -> Tensor:
    return torch.cat([x, x.new_zeros(size - len(x), *x.shape[1:])])


PROMPTS = {
    "expansive": lambda: ExpansiveVisualPrompt(32, 64),
    "padded": lambda: PaddedVisualPrompt(32, frame(64, 16)),
    "additive": lambda: AdditiveVisualPrompt(frame(32, 4), torch.ones(3)),
}


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("name", ["expansive", "padded"])
def test_logits_and_gradients_are_the_same_to_the_bit(name, share):
    """Steps that change the prompt, with evaluation between them; whole batches and short ones in any order."""
    torch.manual_seed(0)
    prompt = PROMPTS[name]()
    nn.init.normal_(prompt.program)
    replayed, plain = prompted(prompt, True, share), prompted(prompt, False, share)
    assert replayed.shares_border == plain.shares_border == share
    batches = torch.rand(6, 8, 3, 32, 32).unbind()
    for number, (batch, size) in enumerate(zip(batches, (8, 8, 3, 8, 1, 5), strict=True)):
        x = batch[:size]
        if number % 2:
            replayed.train()
            logits, gradient = step(replayed, x)
            whole = plain(filled(x, 8))[:size]  # the function that was recorded: of 8 images
            prompt.zero_grad()
            F.cross_entropy(whole, torch.arange(size) % 4, reduction="sum").backward()
            assert torch.equal(logits, whole.detach()) and torch.equal(gradient, prompt.program.grad)
            torch.testing.assert_close(gradient, step(plain, x)[1], rtol=1e-4, atol=1e-6)
            with torch.no_grad():
                prompt.program -= 0.5 * gradient
        else:
            replayed.eval()
            with torch.no_grad():
                source = replayed(x, with_source=True)[1]
                assert torch.equal(source, plain.source_logits(filled(x, 8))[:size])
                torch.testing.assert_close(source, plain.source_logits(x), rtol=1e-4, atol=1e-4)
    assert Eager.captured == 3  # forward alone; forward and backward


@pytest.mark.parametrize("make", [lambda: LowRankVisualPrompt(64, 2), lambda: ScaledVisualPrompt(32, 64, 1.3)])
def test_prompts_of_several_parameters(make):
    """Also after a step that changes all of them, such as the scale of the image."""
    torch.manual_seed(0)
    prompt = make()
    replayed, plain = prompted(prompt, True), prompted(prompt, False)
    x = torch.rand(4, 3, *(32, 32) if isinstance(prompt, ScaledVisualPrompt) else (64, 64))
    for _ in range(2):
        gradients = []
        for model in (replayed, plain):
            logits, _ = step(model, x)
            gradients.append([logits, *(parameter.grad for parameter in prompt.parameters())])
        assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
        with torch.no_grad():
            for parameter in prompt.parameters():
                parameter += 0.1


def test_a_larger_batch_and_another_shape_are_recorded_anew():
    model, plain = (prompted(PROMPTS["additive"](), graph) for graph in (True, False))
    model.network.input_size = plain.network.input_size = 32
    model.network.body = plain.network.body = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 1000))
    model.graphed = Graphed(model._source_logits, (model.prompt, model.network))
    for captured, size in ((2, 3), (4, 5), (4, 2), (4, 5)):
        x = torch.rand(size, 3, 32, 32)
        torch.testing.assert_close(step(model, x), step(plain, x), rtol=1e-5, atol=1e-6)
        assert Eager.captured == captured
    model.network.input_size = plain.network.input_size = 16
    for each in (model, plain):
        each.prompt.mask, each.prompt.program = torch.ones(3, 16, 16), nn.Parameter(torch.zeros(3, 16, 16))
    model.graphed._parameters = [model.prompt.program]
    x = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(step(model, x), step(plain, x), rtol=1e-5, atol=1e-6)
    assert Eager.captured == 6


def test_what_is_returned_stays_and_gradients_add_up():
    """No result is written over by a later batch, although the recorded tensors are."""
    seen = {}
    for graph in (True, False):
        model = prompted(PROMPTS["padded"](), graph)
        source, gradients = [], []
        for number in range(3):
            torch.manual_seed(number)
            source.append(model.source_logits(torch.rand(4, 3, 32, 32)))
            gradients += torch.autograd.grad(source[-1].square().mean(), [model.prompt.program])
            loss = F.cross_entropy(model(torch.rand(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
            loss.backward()  # without zero_grad
        seen[graph] = (*source, *gradients, model.prompt.program.grad)
    assert len(seen[True]) == 7
    assert all(torch.equal(one, other) for one, other in zip(*seen.values(), strict=True))


def test_rows_that_fill_up_a_batch_add_nothing_even_after_infinite_images():
    model = prompted(PROMPTS["padded"](), True)
    step(model, torch.full((4, 3, 32, 32), torch.inf))
    _, gradient = step(model, torch.rand(2, 3, 32, 32))
    assert gradient.isfinite().all() and gradient.any()


def test_pieces_of_a_batch_are_replays_of_one_recording():
    """Batches of 10 in pieces of 4, 4 and 2. What an image takes is measured on the model itself."""
    programs = []
    for graph in (True, False):
        model = prompted(PROMPTS["padded"](), graph)
        batches = [(torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(10) % 4)] * 2
        optimizer = torch.optim.SGD(model.prompt.parameters(), lr=1.0)
        pieces = Pieces(lambda: 1e12, fast=(4, 4))
        train_one_epoch(model, batches, optimizer, torch.amp.GradScaler("cpu", enabled=False), pieces=pieces)
        programs.append(model.prompt.program.detach())
    assert Eager.captured == 2
    assert programs[0].any()
    torch.testing.assert_close(*programs, rtol=1e-4, atol=1e-6)


def test_backward_of_an_older_batch_is_an_error():
    model = prompted(PROMPTS["padded"](), True)
    first = model(torch.rand(2, 3, 32, 32))
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    with pytest.raises(RuntimeError, match="a later batch has replaced"):
        first.sum().backward()


def test_images_that_need_gradients_and_no_images_go_through_the_model_itself():
    model, plain = (prompted(PROMPTS["padded"](), graph) for graph in (True, False))
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    gradients = [torch.autograd.grad(each(x).sum(), x)[0] for each in (model, plain)]
    assert torch.equal(*gradients) and gradients[0].any()
    assert model(x.detach()[:0]).shape == (0, 4)
    assert not Eager.captured


def test_a_frozen_model_without_parameters_is_recorded_once():
    model = prompted(NoVisualPrompt(), True)
    x = torch.rand(3, 3, 64, 64)
    for _ in range(2):
        assert torch.equal(model(x), prompted(NoVisualPrompt(), False)(x))
    assert Eager.captured == 1


def test_autocast_within_the_model_and_a_scaler_outside_stay_what_they_are():
    gradients = []
    for graph in (True, False):
        how = Execution(torch.device("cpu"), "bfloat16", share_border=False, cuda_graph=graph)
        model = Prompted(PROMPTS["padded"](), load_network("tiny", how), SelectLabels(4))
        model.mapping.set(torch.arange(4))
        torch.manual_seed(0)
        optimizer = torch.optim.SGD(model.prompt.parameters(), lr=1.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for _ in range(2):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(torch.rand(4, 3, 32, 32)), torch.arange(4))).backward()
            scaler.step(optimizer)
            scaler.update()
        gradients.append(model.prompt.program.detach())
    assert torch.equal(*gradients) and gradients[0].any()


def on_cuda(args) -> None:
    """In place of `check_cuda_graph`: the stand-in needs no CUDA."""


@pytest.mark.parametrize("script", ["experiments/cnn/ilm_vp", "experiments/cnn/evp", "experiments/clip/ilm_tp_vp"])
def test_a_whole_run_is_the_same_to_the_bit(script, words, small, run_script, monkeypatch):
    """Mapping, training and evaluation; of 24 and 12 images, batches of 6 leave no short one."""
    flags = (*words(script), "--epoch", 2, "--batch-size", 6, "--no-share-border")
    files = []
    monkeypatch.setattr(run, "check_cuda_graph", on_cuda)
    for graph in ("--no-cuda-graph", "--cuda-graph"):
        run_script(script, *flags, graph, "--fresh")
        assert bool(Eager.captured) == (graph == "--cuda-graph")
        files.append(torch.load(only_run(script) / "ckpt.pth", weights_only=True))
    one, two = (each["visual_prompt_dict"] | {"map": each["mapping_sequence"]} for each in files)
    assert one["program"].any() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_run_with_short_batches_counts_the_same(words, small, run_script, monkeypatch, float64):
    monkeypatch.setattr(run, "check_cuda_graph", on_cuda)
    script, results = "experiments/cnn/ilm_vp", []
    for graph in ("--no-cuda-graph", "--cuda-graph"):
        flags = ("--epoch", 3, "--batch-size", 7, "--mapping-source", "train", graph, "--fresh")
        results.append(run_script(script, *words(script), *flags))
    for name in ("mapping", "train_acc_last", "val_acc_last", "test_acc_last"):
        assert results[0][name] == results[1][name]


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("--device cpu", "The device is cpu."),
        ("--device cpu --plain", "--plain is asked for, too."),
        ("--device cpu --compile", "--compile is asked for, too."),
    ],
)
def test_where_graphs_are_refused(flags, found, words, small):
    script = "experiments/cnn/ilm_vp"
    with pytest.raises(UserError, match=found) as caught:
        load_script(script).main([*words(script), "--cuda-graph", *flags.split()])
    assert "--no-cuda-graph" in str(caught.value)


@pytest.mark.parametrize(
    "script", ["experiments/cnn/full_finetune", "experiments/cnn/linear_probing", "experiments/cnn/bar"]
)
def test_methods_without_a_prompt_or_with_a_black_box_refuse(script, words, small, monkeypatch):
    monkeypatch.setattr(run, "check_cuda_graph", on_cuda)
    with pytest.raises(UserError, match="--cuda-graph is for a visual prompt") as caught:
        load_script(script).main([*words(script), "--cuda-graph"])
    assert "trains none that can be recorded" in str(caught.value)


@pytest.mark.parametrize(
    ("device", "frozen", "flags", "graph", "border"),
    [
        ("cpu", True, {}, False, True),
        ("meta", True, {}, False, None),
        ("cuda", True, {}, None, None),
        ("cuda", True, {"cuda_graph": False}, False, None),
        ("cuda", True, {"cuda_graph": True, "share_border": False}, True, False),
        ("cuda", True, {"share_border": True}, None, True),
        ("cuda", True, {"plain": True}, False, False),
        ("cuda", True, {"compile": True}, False, False),
        ("cuda", False, {}, False, False),
    ],
)
def test_the_default_is_a_graph_on_cuda(device, frozen, flags, graph, border, monkeypatch):
    """None: as the prompt allows it, and the border is shared in a graph."""
    monkeypatch.setattr(models.networks.Network, "to", lambda self, device: self)  # there may be no GPU
    how = Execution(torch.device(device), **flags)
    network = models.networks.Network(nn.Identity(), TINY, how, frozen=frozen, setup={})
    assert (network.cuda_graph, network.shares_border) == (graph, border)


@pytest.mark.parametrize(("prompt", "graph"), [("padded", True), ("additive", True), ("random patch", False)])
def test_by_default_what_can_be_recorded_is_recorded(prompt, graph):
    made = {**PROMPTS, "random patch": lambda: RandomPatchVisualPrompt(8, 64, torch.ones(3))}[prompt]()
    network = load_network("tiny", Execution(torch.device("cpu")))
    network.cuda_graph = network.shares_border = None  # as on CUDA
    model = Prompted(made, network, SelectLabels(4))
    assert (model.graphed is not None) == graph and model.shares_border == (prompt == "padded")


def refuse(*_) -> None:
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize("fault", ["hook", "capture"])
def test_by_default_what_cannot_be_recorded_is_computed_without_graphs(fault, monkeypatch):
    network = load_network("tiny", Execution(torch.device("cpu"), share_border=False))
    network.cuda_graph = None
    model = Prompted(PROMPTS["padded"](), network, SelectLabels(4))
    x, expected = torch.rand(2, 3, 32, 32), prompted(PROMPTS["padded"](), False)
    if fault == "hook":
        network.body.conv2.register_forward_hook(lambda *_: None)
    else:
        monkeypatch.setattr(Eager, "capture", refuse)
    with pytest.warns(UserWarning, match="without CUDA graphs"):
        assert model.source_logits(x).equal(expected.source_logits(x))
    assert model.source_logits(x).equal(expected.source_logits(x))  # it is said once


class Custom(PaddedVisualPrompt):
    graphable = False


@pytest.mark.parametrize(
    "prompt", [lambda: RandomPatchVisualPrompt(8, 64, torch.ones(3)), lambda: Custom(32, frame(64, 16))]
)
def test_prompts_that_promise_nothing_are_refused(prompt):
    with pytest.raises(UserError, match="graphable = True"):
        prompted(prompt(), True)


def test_networks_that_learn_are_refused():
    network = load_network("tiny", Execution(torch.device("cpu"), cuda_graph=True), frozen=False)
    with pytest.raises(UserError, match="a frozen network"):
        Prompted(NoVisualPrompt(), network, SelectLabels(4))


def test_forward_hooks_are_refused_also_late_ones():
    model = prompted(PROMPTS["padded"](), True)
    x = torch.rand(2, 3, 32, 32)
    model(x)
    handle = model.network.body.conv2.register_forward_hook(lambda *_: None)
    with pytest.raises(UserError, match="forward hook"):
        model(x)
    handle.remove()
    model(x)


class Fails(nn.Module):
    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    ("error", "expected", "told"),
    [
        (RuntimeError("not permitted when stream is capturing\nmore"), RunError, "capturing\nRun it without"),
        (torch.cuda.OutOfMemoryError("too large"), torch.cuda.OutOfMemoryError, "too large"),  # a message of its own
        (UserError("asked", "found", "next"), UserError, "asked\nfound\nnext"),
    ],
)
def test_what_cannot_be_recorded_ends_the_run_with_a_message(error, expected, told):
    network = network_of(Fails(error), 10, 8)
    with pytest.raises(expected, match=told):
        Graphed(network, [network])(torch.rand(1, 3, 8, 8))
