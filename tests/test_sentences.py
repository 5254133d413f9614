"""DVP and RVP: their logits by hand, their files, and what becomes of a run and of its head."""

import json

import pytest
import torch
from make_data import make_attributes
from test_experiments import checkpoint, only_run
from test_settings import arguments_of_fit
from tiny import network_of
from torch import nn

import cfg
from algorithms.clusters import k_means
from algorithms.label_mapping import reweighting_matrix
from algorithms.predictions import SentenceCounter
from data.attributes import by_class
from errors import UserError
from models.output_mapping import WeightLabels
from models.prompted import Prompted
from models.sentence_mapping import WeightedSentences, folded
from models.several_prompts import PromptsOfLabels
from models.visual_prompt import AdditiveVisualPrompt
from tools import export
from tools.load import load_prompted

pytestmark = pytest.mark.numeric
DVP, RVP = "experiments/clip/dvp", "experiments/clip/rvp"
CLASSES = ("ant", "bee", "cow", "doe")

# The reweighting matrix -----------------------------------------------------------------------------------------------


def one_hot_logits(chosen: list[list[int]], num_source: int = 6) -> torch.Tensor:
    """(B,S): the chosen source labels have 2, 1, ...; the others -1."""
    logits = torch.full((len(chosen), num_source), -1.0)
    for row, sources in zip(logits, chosen, strict=True):
        row[sources] = torch.arange(len(sources), 0, -1.0)
    return logits


def test_the_matrix_by_hand():
    """T = 2 classes of M = 3 sentences, k = 2: two images of class 0 and one of class 1."""
    counter = SentenceCounter(6, 2, 2)
    counter(one_hot_logits([[0, 1], [0, 2]]), torch.tensor([0, 0]))
    counter(one_hot_logits([[5, 4]]), torch.tensor([1]))
    mapping = WeightLabels(6, 2)
    mapping.set(reweighting_matrix(counter.take().counts))
    assert mapping.weight.T.tolist() == [[0.5, 0.25, 0.25, 0, 0, 0], [0, 0, 0, 0, 0.5, 0.5]]
    assert mapping(torch.arange(1.0, 7)[None]).tolist() == [[1.75, 5.5]]
    assert counter.take().counts.sum() == 0


def test_only_the_sentences_of_the_own_class_count():
    """Sentences of other classes are nearer to the image, and do not count."""
    counter = SentenceCounter(6, 2, 1)
    counter(torch.tensor([[1.0, 2, 3, 9, 9, 9], [9, 9, 9, 3, 2, 1]]), torch.tensor([0, 1]))
    assert counter.take().counts.nonzero().tolist() == [[2, 0], [3, 1]]


def test_counts_equal_the_slow_version():
    logits, labels = torch.randn(40, 4 * 7), torch.randint(4, (40,))
    counter = SentenceCounter(28, 4, 3)
    for some in range(0, 40, 16):
        counter(logits[some : some + 16], labels[some : some + 16])
    slow = torch.zeros(28, 4, dtype=torch.int64)
    for row, label in zip(logits, labels.tolist(), strict=True):
        own = list(range(7 * label, 7 * label + 7))
        for source in sorted(own, key=lambda source: -row[source])[:3]:
            slow[source, label] += 1
    assert torch.equal(counter.take().counts, slow)


def test_a_class_without_an_image_has_equal_weights():
    counts = torch.zeros(6, 2, dtype=torch.int64)
    counts[:3, 0] = torch.tensor([3, 1, 0])
    weights = reweighting_matrix(counts)
    torch.testing.assert_close(weights.T, torch.tensor([[0.75, 0.25, 0, 0, 0, 0], [0, 0, 0, 1 / 3, 1 / 3, 1 / 3]]))
    assert weights.isfinite().all()


# Several prompts ------------------------------------------------------------------------------------------------------


class Features(nn.Module):
    """Images (B,3,1,1) -> 10 times the cosines of their first two channels with four sentences."""

    sentences = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1], [0.6, 0.8]])

    def forward(self, x):
        return 10 * nn.functional.normalize(x[:, :2, 0, 0], dim=1) @ self.sentences.T


def test_a_sentences_logit_is_that_of_its_prompt():
    """Features (1,0) under prompt 0 and (0,1) under prompt 1, sentences in clusters 0, 0, 1, 1 of labels 0, 0, 1, 1."""
    prompt = PromptsOfLabels(AdditiveVisualPrompt(torch.ones(1, 1), torch.ones(3)), 2, torch.tensor([0, 0, 1, 1]))
    prompt.program.data[:, :2, 0, 0] = torch.eye(2)
    mapping = WeightLabels(4, 2)
    mapping.set(reweighting_matrix(torch.zeros(4, 2, dtype=torch.int64)))
    model = Prompted(prompt, network_of(Features(), 4, 1), mapping)
    x = torch.zeros(3, 3, 1, 1)
    torch.testing.assert_close(model.source_logits(x), torch.tensor([[10.0, 8, 10, 8]] * 3))
    torch.testing.assert_close(model(x), torch.tensor([[9.0, 9]] * 3))


def test_clusters_go_over_all_sentences():
    vectors = torch.nn.functional.normalize(
        torch.tensor([[1.0, 0], [0, 1], [1, 0.1], [0.1, 1], [-1, 0], [-1, 0.1], [0, 0.9]]), dim=1
    )
    found = k_means(vectors, 3)
    groups = {frozenset((found == number).nonzero().flatten().tolist()) for number in range(3)}
    assert groups == {frozenset({0, 2}), frozenset({1, 3, 6}), frozenset({4, 5})}
    assert found.dtype == torch.int64 and torch.equal(k_means(vectors, 3), found)
    assert k_means(vectors, 1).tolist() == [0] * 7
    with pytest.raises(UserError, match=r"--clusters 7(.|\n)*There are 6"):  # (0,1) is there twice
        k_means(vectors, 7)


def test_the_order_of_the_sentences():
    """Class 1, cause 1, sentence 0 of T = 2, m = 2 and two causes stands at 6."""
    banks = [[f"cause {bank}, class {target}, {i}" for i in range(2) for target in range(2)] for bank in range(2)]
    sentences = by_class(banks, 2)
    assert sentences[6] == "cause 1, class 1, 0"
    assert sentences[:4] == ["cause 0, class 0, 0", "cause 0, class 0, 1", "cause 1, class 0, 0", "cause 1, class 0, 1"]
    assert len(set(sentences)) == 8


def test_the_prompt_of_each_cause(small, words, monkeypatch):
    flags = ("--causes", "3", "--descriptions", "5")
    model = arguments_of_fit(DVP, flags, words, monkeypatch)["model"]
    assert len(model.prompt.program) == 3 and len(model.network.class_names) == 3 * 5 * 4
    for name, number in zip(model.network.class_names, model.prompt.prompt_of_label.tolist(), strict=True):
        assert f"cause{number + 1} enough" in name
    assert [name.split(",")[0].split()[-1] for name in model.network.class_names[::15]] == list(CLASSES)


# Runs -----------------------------------------------------------------------------------------------------------------


def epochs(script: str) -> list[dict]:
    return [json.loads(line) for line in (only_run(script) / "log.jsonl").read_text().splitlines()]


def test_the_matrix_follows_the_last_training(small, run_script, words, monkeypatch):
    """It is made before the first epoch and after each, of 3 sentences of each of the 24 images."""
    counted, set_weights = [], WeightLabels.set
    make = reweighting_matrix
    monkeypatch.setattr("algorithms.label_mapping.reweighting_matrix", lambda c: counted.append(c.sum()) or make(c))
    set_at = []
    monkeypatch.setattr(WeightLabels, "set", lambda self, w: set_at.append(w) or set_weights(self, w))
    result = run_script(DVP, *words(DVP), "--epoch", 2)
    assert counted == [72, 72, 72]
    saved = checkpoint(only_run(DVP) / "ckpt.pth")
    assert torch.equal(saved["mapping_dict"]["weight"], set_at[-1])
    first, second = epochs(DVP)
    assert (first["remapped"], first["new_sources"].keys()) == (1.0, set(CLASSES))  # before it there was no matrix
    assert len(second["new_sources"]) == 4 * second["remapped"]
    saved = only_run(DVP) / "ckpt.pth"
    assert run_script("tools/evaluate", "--checkpoint", saved)["acc"] == result["test_acc_last"]


@pytest.mark.slow
def test_all_prompts_learn(small, run_script, words):
    for flags in (("--causes", 2), ("--clusters", 2)):
        run_script(DVP, *words(DVP), "--epoch", 1, *flags, "--fresh")
    for run in (cfg.results_path / "clip" / "dvp").iterdir():
        program = checkpoint(run / "ckpt.pth")["visual_prompt_dict"]["program"]
        assert program.shape == (2, 3, 32, 32)
        assert (program.abs().amax((1, 2, 3)) > 0).all() and not torch.equal(program[0], program[1])


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        (DVP, (), r"No folder is given(.|\n)*Put small_descriptive\.json into one"),
        (DVP, ("--causes", 2), r"Put small_cause1\.json and small_cause2\.json into one"),
        (DVP, ("--causes", 2, "--clusters", 2), "not allowed with"),
        (DVP, ("--attributes", "any", "--descriptions", 2), r"--nearest 3(.|\n)*Each class has 2\."),
        (DVP, ("--attributes", "nowhere", "--causes", 2), r"small_cause1\.json is needed there"),
        (RVP, (), r"No folder is given(.|\n)*Put small_descriptive\.json into one"),
        (RVP, ("--nearest", 3), "unrecognized arguments"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(script, flags, message, small, run_script, words):
    with pytest.raises(UserError, match=message) as caught:
        run_script(script, *words(script)[:6], *flags)
    assert len(str(caught.value).splitlines()) == 3
    assert not list(cfg.results_path.rglob("args.json"))


def test_two_sentences_of_each_cause_are_enough_for_three(small, run_script, words):
    folder = str(make_attributes(cfg.data_path / "attributes"))
    flags = ("--causes", 2, "--descriptions", 2, "--attributes", folder, "--epoch", 1)
    assert run_script(DVP, *words(DVP)[:6], *flags)["status"] == "finished"


def test_the_clusters_are_the_checkpoints(small, run_script, words):
    """k-means may end otherwise on another machine. A continued run, and evaluate.py, keep the prompt of a sentence."""
    flags = (*words(DVP), "--clusters", 2)
    run_script(DVP, *flags, "--epoch", 1)
    saved = checkpoint(only_run(DVP) / "ckpt.pth")["visual_prompt_dict"]["prompt_of_label"]
    model, *_ = load_prompted(only_run(DVP) / "ckpt.pth", device="cpu")
    assert set(saved.tolist()) == {0, 1} and torch.equal(model.prompt.prompt_of_label, saved)


# RVP ------------------------------------------------------------------------------------------------------------------


def test_rvps_logits_by_hand():
    """Class 0 has sentences of logits 1 and 3, class 1 of 2 and 4."""
    mapping, logits = WeightedSentences(2, 2), torch.tensor([[1.0, 2, 3, 4]])
    assert mapping(logits).tolist() == [[2, 3]]
    mapping.classes.data[0, 1] = -0.5
    assert mapping(logits).tolist() == [[2, 2]]
    mapping.sentences.data[0, 1] = torch.tensor(3.0).log()  # weights 1/4 and 3/4
    torch.testing.assert_close(mapping(logits), torch.tensor([[2.5, 1.75]]))
    assert mapping.sources.tolist() == [[2], [1]]
    assert mapping.named("abcd", ["first", "second"])["first"] == "c (0.75), a (0.25)"


def trained_rvp(words, monkeypatch):
    """RVP's model with weights as if it had learned."""
    model = arguments_of_fit(RVP, ("--descriptions", "5"), words, monkeypatch)["model"]
    for parameter in (*model.mapping.parameters(), *model.prompt.parameters()):
        parameter.data.normal_()
    return model


def test_the_folded_head_equals_the_mapping(small, words, monkeypatch, float64):
    model = trained_rvp(words, monkeypatch)
    folded_model = folded(model, CLASSES)
    x = torch.rand(3, 3, 27, 27)
    torch.testing.assert_close(folded_model(x), model(x), rtol=1e-9, atol=1e-9)
    assert folded_model.network.bank.shape == (4, 16) and folded_model.network.class_names == CLASSES
    assert len(model.network.class_names) == len(model.network.bank) == 20  # the model is as it was
    # W = (1/tau) T~^T W1 (I + E), written out
    blocks = torch.zeros(20, 4)
    for target in range(4):
        blocks[target::4, target] = model.mapping.sentences[target].detach().softmax(0)
    head = model.network.bank.T @ blocks @ (torch.eye(4) + model.mapping.classes.detach())
    torch.testing.assert_close(folded_model.network.bank.T, head, rtol=1e-12, atol=1e-12)


def test_the_exported_network_has_one_head(small, words, run_script, monkeypatch):
    run_script(RVP, *words(RVP), "--epoch", 1, "--mapping-lr", 10)
    saved, made = only_run(RVP) / "best.pth", []
    fake = export.FORMATS["torch.export"]._replace(
        make=lambda model, *_: made.append(model) or b"", open=lambda _: made[0]
    )
    monkeypatch.setitem(export.FORMATS, "torch.export", fake)
    export.main(["--checkpoint", str(saved), "--format", "torch.export"])
    assert made[0].network.bank.shape == (4, 16)
    model, *_ = load_prompted(saved, device="cpu")
    assert model.mapping.sentences.abs().sum() > 0 and model.mapping.classes.abs().sum() > 0
    x = torch.rand(2, 3, 27, 27)
    torch.testing.assert_close(made[0](x), model(x), rtol=0, atol=1e-4)
