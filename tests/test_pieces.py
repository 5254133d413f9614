"""Batches in pieces: the same sums, gradients and draws as whole batches."""

import pytest
import torch
import torch.nn.functional as F
from conftest import load_script
from test_experiments import only_run
from tiny import network_of
from torch import Tensor, nn

from algorithms.normalized_gradient import NormalizedGradient
from algorithms.pieces import LiveBytes, Pieces, bytes_of_an_image
from algorithms.predictions import PredictionCounter, count_predictions
from algorithms.training import evaluate, train_one_epoch
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.visual_prompt import ExpansiveVisualPrompt, PaddedVisualPrompt, RandomPatchVisualPrompt, frame

pytestmark = pytest.mark.numeric


class InPieces(Pieces):
    """Pieces of a given size, also of one that is no power of two."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def _size(self, function, images: Tensor) -> int:
        return self.size


def batches(count: int = 2, size: int = 14) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.rand(size, 3, 8, 8, generator=generator), torch.randint(4, (size,), generator=generator))
        for _ in range(count)
    ]


def prompted(prompt: nn.Module) -> Prompted:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(6))
    body(torch.zeros(1, 3, 12, 12))
    model = Prompted(prompt, network_of(body, 6, 12), SelectLabels(4))
    model.mapping.set(torch.tensor([5, 0, 3, 2]))
    return model


def expansive() -> tuple[Prompted, torch.optim.Optimizer]:
    model = prompted(ExpansiveVisualPrompt(8, 12))
    return model, torch.optim.Adam(model.prompt.parameters(), lr=0.1)


def normalised() -> tuple[Prompted, torch.optim.Optimizer]:
    model = prompted(PaddedVisualPrompt(8, frame(12, 2)))
    return model, NormalizedGradient(model.prompt.program, model.prompt.mask, lr=2.0)


class Recorded(list):
    def __call__(self, source_logits: Tensor, labels: Tensor) -> None:
        self.append((source_logits, labels))

    def whole(self) -> list[Tensor]:
        return [torch.cat(parts) for parts in zip(*self, strict=True)]


@pytest.mark.parametrize("make", [expansive, normalised])
def test_five_steps_in_pieces_of_1_7_and_all_give_the_same(make, float64):
    data, results = batches(5, 14), {}
    for size in (1, 7, 8, 14):
        model, optimizer = make()
        scaler, seen = torch.amp.GradScaler("cpu", enabled=False), Recorded()
        pieces = InPieces(size)
        numbers = train_one_epoch(model, data, optimizer, scaler, observe=seen, pieces=pieces)
        counter = PredictionCounter(6, 4)
        counts = count_predictions(model.source_logits, data, counter, pieces).counts
        tested = evaluate(model, data, pieces=pieces)
        results[size] = (model.prompt.program.detach(), *seen.whole(), counts, *map(torch.tensor, numbers.values()))
        results[size] += tuple(map(torch.tensor, tested.values()))
        assert len(seen[0][1]) == size and len(seen.whole()[1]) == 5 * 14
    assert results[14][0].any()
    for size in (1, 7, 8):
        for one, other in zip(results[size], results[14], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_gradient_scaler_sees_whole_batches():
    results = []
    for size in (1, 7, 14):
        model, optimizer = normalised()
        scaler = torch.amp.GradScaler("cpu", init_scale=512.0, growth_interval=2)
        train_one_epoch(model, batches(5, 14), optimizer, scaler, pieces=InPieces(size))
        assert scaler.get_scale() == 2048  # it grew twice in five steps
        results.append(model.prompt.program.detach())
    assert results[0].any()
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-3, atol=1e-4)


def test_a_random_patch_draws_the_same_in_pieces(float64):
    programs = []
    for size in (1, 3, 14):
        model = prompted(RandomPatchVisualPrompt(3, 8, torch.ones(3)))
        model.network.input_size = 8
        model.network.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 6))
        torch.manual_seed(1)
        nn.init.normal_(model.network.body[1].weight)
        torch.manual_seed(2)
        optimizer = torch.optim.SGD(model.prompt.parameters(), lr=1.0)
        train_one_epoch(model, batches(), optimizer, torch.amp.GradScaler("cpu", enabled=False), pieces=InPieces(size))
        loss = evaluate(model, batches(), pieces=InPieces(size))["loss"]
        programs.append((model.prompt.program.detach(), torch.tensor(loss), torch.rand(3)))
    assert programs[0][0].any()
    for other in programs[1:]:
        torch.testing.assert_close(other, programs[0], rtol=1e-9, atol=1e-12)


def test_live_bytes_of_a_function_by_hand():
    with LiveBytes() as live:
        a = torch.zeros(100)  # 400 bytes
        b = (a + 1).view(10, 10)  # 400 more; a view is not counted again
        b += 1
        assert live.now == live.peak == 800
        del a
        c = b.double()  # 800
        assert (live.now, live.peak) == (1200, 1200)
        del b, c
    assert (live.now, live.peak) == (0, 1200)


def test_what_an_image_costs_and_that_measuring_changes_nothing():
    model = nn.Sequential(nn.Linear(100, 1000), nn.ReLU(), nn.BatchNorm1d(1000), nn.Dropout(), nn.Linear(1000, 10))
    model[0].eval()
    x = torch.rand(20, 100)
    before, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        forward = bytes_of_an_image(model, x)
    training = bytes_of_an_image(model, x)
    assert 8000 <= forward < 13000  # two layers' outputs of 4000 bytes are alive at a time
    assert 12000 <= training < 22000  # two outputs are kept for the gradients, and one or two gradients are alive
    assert torch.equal(before, torch.get_rng_state()) and modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("fitting", "sizes"), [(0, [1] * 6), (2.5, [2, 2, 2]), (5.5, [4, 2]), (6, [6]), (99, [6])])
def test_a_piece_is_the_largest_power_of_two_that_fits(fitting, sizes, capsys):
    model, seen = nn.Linear(5, 3), []
    with torch.no_grad():
        each = bytes_of_an_image(model, torch.rand(6, 5)) * 1.8
        pieces = Pieces(lambda: fitting * each)
        for _ in range(2):
            pieces.compute(model, lambda x, y: seen.append(len(x)), torch.rand(6, 5), torch.arange(6))
    assert seen == sizes * 2
    assert capsys.readouterr().out.count(f"in pieces of {sizes[0]}:") == (len(sizes) > 1)


def test_batch_normalisation_that_trains_is_not_cut_and_says_so(capsys):
    model, optimizer = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)), None
    data = [(torch.rand(6, 5), torch.arange(6) % 3)] * 2
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sizes = []
    model.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    pieces, scaler = Pieces(lambda: 1.0), torch.amp.GradScaler("cpu", enabled=False)
    train_one_epoch(model, data, optimizer, scaler, pieces=pieces)
    assert sizes.count(6) >= 2 and 1 not in sizes
    assert capsys.readouterr().out.count("batch normalisation learns from whole batches") == 1
    sizes.clear()
    evaluate(model, data, pieces=pieces)  # in eval mode it is
    assert sizes.count(1) == 12


def test_the_default_never_measures(monkeypatch):
    monkeypatch.setattr("algorithms.pieces.bytes_of_an_image", None)
    model = nn.Linear(5, 3)
    assert Pieces().compute(model, lambda x, y: len(x), torch.rand(9, 5), torch.arange(9)) == [9]
    assert Pieces(fast=(7, 7)).compute(model, lambda x, y: len(x), torch.rand(9, 5), torch.arange(9)) == [4, 4, 1]
    assert Pieces(lambda: 1.0).compute(model, lambda x, y: len(x), torch.rand(0, 5), torch.arange(0)) == [0]


class SmallDevice(nn.Module):
    """Computes at most `most` images at a time, and fails in the middle of larger pieces."""

    def __init__(self, most: int):
        super().__init__()
        self.layer, self.most, self.sizes = nn.Linear(192, 4), most, []

    def forward(self, x: Tensor, with_source: bool = False):
        self.sizes.append(len(x))
        logits = self.layer(x.flatten(1) + torch.rand(len(x), 1))
        if len(self.sizes) % 2 == 0 and len(x) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return (logits, logits) if with_source else logits


def trained(model: SmallDevice, pieces: Pieces) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    nn.init.normal_(model.layer.weight, std=0.1)
    nn.init.zeros_(model.layer.bias)
    seen, optimizer = Recorded(), torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    train_one_epoch(model, batches(3, 16), optimizer, scaler, observe=seen, pieces=pieces)
    return model.layer.weight.detach(), seen.whole()


def test_out_of_memory_halves_the_piece_once_and_computes_the_batch_anew(float64, capsys):
    """The error comes in the second piece: the first one's gradient is there, and its random numbers are used up."""
    model = SmallDevice(most=4)
    weight, seen = trained(model, Pieces(fast=(8, 8)))
    assert model.sizes == [8, 8, *[4] * 12]
    expected, all_seen = trained(SmallDevice(most=99), Pieces())
    torch.testing.assert_close(weight, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(seen, all_seen, rtol=1e-9, atol=1e-12)
    assert capsys.readouterr().out == ("Out of memory with 8 images. From now on 4 are computed at a time.\n")


def test_out_of_memory_again_ends_the_run():
    model = SmallDevice(most=2)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        trained(model, Pieces(fast=(8, 8)))
    assert model.sizes == [8, 8, 4, 4]


def test_out_of_memory_of_one_image_or_of_batch_normalisation_ends_the_run():
    def fail(images: Tensor, labels: Tensor) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    for model, size in ((nn.Linear(5, 3), 1), (nn.BatchNorm1d(5), 6)):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            Pieces().compute(model, fail, torch.rand(size, 5), torch.arange(size))


@pytest.mark.parametrize("script", ["experiments/cnn/ilm_vp", "experiments/cnn/evp", "experiments/cnn/linear_probing"])
def test_a_whole_run_is_the_same_to_rounding(script, words, small, run_script, float64, capsys):
    """And it is the same run, in the same folder: --memory does not name another."""
    programs = []
    for memory in ("auto", "0.000001"):
        run_script(script, *words(script), "--epoch", 2, "--memory", memory, "--fresh")
        content = torch.load(only_run(script) / "ckpt.pth", weights_only=True)
        programs.append(content.get("visual_prompt_dict") or content["head_dict"])
    assert "in pieces of 1:" in capsys.readouterr().out
    torch.testing.assert_close(programs[1], programs[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("script", ["experiments/cnn/full_finetune", "experiments/cnn/smm"])
def test_methods_that_train_batch_normalisation_say_that_they_are_not_cut(script, words, small, run_script, capsys):
    run_script(script, *words(script), "--epoch", 1, "--memory", "0.000001")
    assert capsys.readouterr().out.count("It is not cut: batch normalisation") == 1


def test_out_of_memory_is_a_message_that_names_the_flag(words, small, monkeypatch):
    def fail(*_, **__) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(F, "cross_entropy", fail)
    script = "experiments/cnn/ilm_vp"
    with pytest.raises(Exception, match="Try a lower --memory, or a lower --batch-size"):
        load_script(script).main([*words(script)])
