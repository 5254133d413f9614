"""The default path, --plain and --compile: they train equally, and each is used where it should be."""

import pytest
import torch
import torch.nn.functional as F
from conftest import load_script
from test_shared_border import Work
from tiny import network_of
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import algorithms.training
import models.prompted
from algorithms.normalized_gradient import NormalizedGradient
from algorithms.training import train_one_epoch
from errors import RunError
from models.network_row import NetworkRow
from models.networks import Execution, Network, load_network
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.shared_border import share_border
from models.visual_prompt import (
    AdditiveVisualPrompt,
    ExpansiveVisualPrompt,
    NoVisualPrompt,
    PaddedVisualPrompt,
    frame,
)
from tools.common.run_folder import RunFolder

pytestmark = pytest.mark.numeric


@pytest.fixture
def losses(monkeypatch) -> list[float]:
    """The loss of every training step."""
    seen, cross_entropy = [], F.cross_entropy

    def watched(logits, labels, **how):
        loss = cross_entropy(logits, labels, **how)
        seen.extend([loss.item() / len(labels)] * loss.requires_grad)
        return loss

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", watched)
    return seen


@pytest.fixture
def maps(monkeypatch) -> list[list[int]]:
    """Every map that a prompted model was given."""
    seen, set_mapping = [], SelectLabels.set
    monkeypatch.setattr(SelectLabels, "set", lambda self, m: seen.append(m.tolist()) or set_mapping(self, m))
    return seen


@pytest.fixture
def shared(monkeypatch) -> list[int]:
    """The sizes of the batches that shared a border."""
    seen = []
    monkeypatch.setattr(models.prompted, "share_border", lambda h, x: seen.append(len(x)) or share_border(h, x))
    return seen


# At its default rate a batch of 6 throws efficientnet_lite0's loss about, from 1.3 to 4.7 in the first step: rounding
# grows a thousandfold in two steps then. A lower rate keeps float64's rounding, 1e-16, far below 1e-9 for 20 steps.
@pytest.mark.parametrize(
    "words",
    [
        "--network tiny --batch-size 8 --epoch 7",
        pytest.param("--network efficientnet_lite0 --batch-size 6 --epoch 5 --lr 0.0001", marks=pytest.mark.slow),
    ],
)
def test_a_whole_run_is_the_same(words, small, run_script, losses, maps, shared, float64):
    results = {}
    for path in ((), ("--plain",)):
        result = run_script("experiments/cnn/ilm_vp", "--dataset", "small", *words.split(), *path)
        figures = [result[f"{split}_acc_last"] for split in ("train", "val", "test")]
        results[path] = losses.copy(), maps.copy(), figures, shared.copy()
        for seen in (losses, maps, shared):
            seen.clear()
    fast, plain = results.values()
    assert len(plain[0]) >= 20
    assert fast[0][:20] == pytest.approx(plain[0][:20], rel=1e-9)
    assert fast[1:3] == plain[1:3]
    assert len(set(map(tuple, plain[1]))) > 1  # otherwise the same maps would say little
    assert fast[3] and not plain[3]


PROMPTS = {
    "expansive": (lambda: ExpansiveVisualPrompt(32, 64), True),
    "padded": (lambda: PaddedVisualPrompt(32, frame(64, 16)), True),
    "additive": (lambda: AdditiveVisualPrompt(frame(64, 16), torch.ones(3)), False),
    "none": (NoVisualPrompt, False),
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_who_shares_a_border(prompt):
    make, may = PROMPTS[prompt]

    def shares(frozen: bool = True, **run) -> bool:
        network = load_network("tiny", Execution(torch.device("cpu"), **run), frozen=frozen)
        return Prompted(make(), network, SelectLabels(4)).shares_border

    assert shares() == shares(share_border=True) == may
    assert not shares(share_border=False)
    assert not shares(plain=True, share_border=True)
    assert not shares(compile=True, share_border=True)
    assert not shares(frozen=False, share_border=True)


class BehindTheImage(PaddedVisualPrompt):
    """A padded prompt whose border depends on the image, and which does not promise otherwise."""

    constant_border = False

    def forward(self, x):
        return super().forward(x) + F.pad(torch.zeros_like(x), self.padding, value=1.0) * x.mean((1, 2, 3), True)


def test_a_border_that_depends_on_the_image_is_not_shared(float64):
    torch.manual_seed(0)
    prompt, network, x = BehindTheImage(32, frame(64, 16)), load_network("tiny"), torch.rand(8, 3, 32, 32)
    model = Prompted(prompt, network, SelectLabels(4))
    model.mapping.set(torch.arange(4))
    one_by_one = torch.cat([network(prompt(image[None])) for image in x])[:, :4]
    torch.testing.assert_close(model(x), one_by_one, rtol=1e-9, atol=1e-12)
    prompt.constant_border = True  # a false promise gives other logits
    assert not torch.allclose(Prompted(prompt, network, model.mapping)(x), one_by_one, atol=1e-3)


def test_on_cuda_a_border_is_shared_in_a_graph_or_on_request():
    with FakeTensorMode():
        for asked, expected in ((None, None), (True, True), (False, False)):  # None: if the model is recorded
            run = Execution(torch.device("cuda"), share_border=asked)
            network = Network(nn.Identity(), NetworkRow(None, input_size=64), run, frozen=True, setup={})
            assert network.shares_border is expected


def test_a_prompted_model_that_shares_does_less_and_gives_the_same(float64):
    torch.manual_seed(0)
    prompt, x = ExpansiveVisualPrompt(8, 224), torch.rand(8, 3, 8, 8)
    nn.init.normal_(prompt.program)
    model = Prompted(prompt, load_network("efficientnet_lite0"), SelectLabels(4))
    model.mapping.set(torch.tensor([5, 900, 3, 4]))
    seen = {}
    for model.shares_border in (True, False):
        prompt.zero_grad()
        with Work() as work:
            logits = model(x)
            F.cross_entropy(logits, torch.arange(8) % 4).backward()
        seen[model.shares_border] = logits.detach(), prompt.program.grad, work.total
    torch.testing.assert_close(seen[True][0], seen[False][0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(seen[True][1], seen[False][1], rtol=1e-9, atol=1e-12)
    assert seen[True][2] < 0.7 * seen[False][2]


@pytest.mark.parametrize("script", ["experiments/cnn/ilm_vp", "experiments/cnn/full_finetune", "experiments/clip/evp"])
def test_compiling(script, words, run_script, small, shared, losses, monkeypatch, float64):
    """torch.compile traces the network; the test does not compile the graph."""
    compiled, compile = [], nn.Module.compile

    def watched(self, *args, **kwargs):
        compiled.append(self)
        compile(self, *args, backend="eager", **kwargs)

    flags = (*words(script), "--epoch", 2)
    run_script(script, *flags, "--plain")
    expected = losses.copy()
    losses.clear()
    monkeypatch.setattr(nn.Module, "compile", watched)
    run_script(script, *flags, "--compile")
    assert len(compiled) == 1
    assert not shared
    assert len(losses) == 6 and losses == pytest.approx(expected, rel=1e-9)


def test_a_run_may_go_on_compiled(words, run_script, small, monkeypatch, capsys):
    script, end_epoch = "experiments/cnn/ilm_vp", RunFolder.end_epoch

    def stop(self, epoch, record):
        end_epoch(self, epoch, record)
        if epoch == 0:
            raise RunError("stopped", "", "")

    with monkeypatch.context() as context, pytest.raises(RunError):
        context.setattr(RunFolder, "end_epoch", stop)
        run_script(script, *words(script), "--epoch", 2)
    compile = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compile(self, backend="eager", **how))
    run_script(script, *words(script), "--epoch", 2, "--compile")
    assert "Continuing after epoch 1 of 2" in capsys.readouterr().out


@pytest.mark.parametrize(("frozen", "graphs"), [(True, 2), (False, 5)])
def test_a_short_batch_makes_no_size_dynamic(frozen, graphs, monkeypatch, float64):
    """A mapping pass, training and evaluation: a frozen network has a graph with gradients and one without.

    A network that learns has one for each size, and for each mode of its batch normalisation.
    """
    made, dynamic, compile = [], [], nn.Module.compile

    def counted(graph, inputs):
        dynamic.extend(size for each in inputs for size in each.shape if isinstance(size, torch.SymInt))
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compile(self, backend=counted, **how))
    torch._dynamo.reset()
    network = load_network("tiny", Execution(torch.device("cpu"), compile=True), num_classes=4, frozen=frozen)
    reference = load_network("tiny", num_classes=4, frozen=frozen)
    reference.load_state_dict(network.state_dict())
    for train, sizes in ((False, (5, 5, 2)), (True, (5, 5, 2)), (False, (5, 4))):
        for size in sizes:
            x = torch.rand(size, 3, 64, 64)
            with torch.set_grad_enabled(train):
                logits, expected = network.train(train)(x), reference.train(train)(x)
            torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-12)
    assert len(made) == graphs and not dynamic


def test_without_a_compiler(words, small, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no compiler\nfar and wide")

    compile = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compile(self, backend=broken, **how))
    script = "experiments/cnn/ilm_vp"
    with pytest.raises(RunError, match="no compiler far and wide") as caught:
        load_script(script).main([*words(script), "--compile"])
    assert len(str(caught.value).splitlines()) == 3
    assert "Run it without --compile" in str(caught.value)


class Deaf(nn.Module):
    """A prompted model on a device whose values nobody can read."""

    def __init__(self):
        super().__init__()
        body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 62 * 62, 7))
        self.prompted = Prompted(ExpansiveVisualPrompt(32, 64), network_of(body, 7, 64), SelectLabels(3)).to("meta")

    def forward(self, x):
        return self.prompted(x)


def test_a_step_reads_nothing_from_the_device(monkeypatch):
    """On the `meta` device reading a value is an error, as it is a wait on a GPU; the sums are read after the epoch."""
    model = Deaf()
    batches = [(torch.rand(5, 3, 32, 32, device="meta"), torch.zeros(5, dtype=torch.long, device="meta"))] * 3
    parameters = model.prompted.prompt.parameters()
    monkeypatch.setattr(algorithms.training, "_check_finite", lambda meter: None)
    monkeypatch.setattr(algorithms.training._Meter, "over_processes", lambda meter: meter)
    monkeypatch.setattr(algorithms.training._Meter, "summary", lambda meter: {"images": meter.images})
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    assert train_one_epoch(model, batches, torch.optim.Adam(parameters, fused=False), scaler) == {"images": 15}
    program, mask = model.prompted.prompt.program, model.prompted.prompt.mask
    train_one_epoch(model, batches, NormalizedGradient(program, mask, lr=1.0), scaler)


@pytest.mark.parametrize("norm", ["l2", "none"])
def test_scaled_gradients_make_the_same_step(norm, float64):
    """As the gradient scaler of float16 hands them over; a step with an infinite gradient is left out."""
    programs = []
    for scale, broken in ((None, False), (8.0, False), (8.0, True)):
        program = nn.Parameter(torch.linspace(-1, 1, 12).view(3, 2, 2))
        optimizer = NormalizedGradient(program, torch.tensor([0.0, 1.0]).expand(3, 2, 2), lr=0.5, norm=norm)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        scaler.scale((program**2).sum()).backward()
        if broken:
            program.grad[0, 0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        programs.append(program.detach())
    torch.testing.assert_close(programs[0], programs[1])
    assert not torch.equal(programs[0], torch.linspace(-1, 1, 12).view(3, 2, 2))
    assert torch.equal(programs[2], torch.linspace(-1, 1, 12).view(3, 2, 2))
