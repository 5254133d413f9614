"""Label mappings against hand-made cases and against a slow, plain version."""

import pytest
import torch
from conftest import Calls

from algorithms.label_mapping import (
    PredictionCounter,
    count_predictions,
    describe_mapping,
    frequency_label_mapping,
    majority_label_mapping,
    random_label_mapping,
)

pytestmark = pytest.mark.numeric


def slow_frequency_mapping(counts: torch.Tensor) -> list[int]:
    """The definition, word for word: largest count first, ties by source and then target, strike out both."""
    counts = counts.clone()
    mapping = [None] * counts.shape[1]
    while None in mapping:
        source, target = min((counts == counts.max()).nonzero().tolist())
        mapping[target] = source
        counts[source, :] = -1
        counts[:, target] = -1
    return mapping


CASES = {
    "plain": ([[5, 0], [0, 3], [0, 0]], [0, 1]),
    "both targets want source 0": ([[5, 4], [1, 0], [0, 2]], [0, 2]),
    "the larger count wins, the other takes its second choice": ([[3, 5], [2, 1], [0, 0]], [1, 0]),
    "tie between sources": ([[0, 0], [4, 0], [4, 1]], [1, 2]),
    "tie between targets": ([[2, 2], [0, 1], [1, 0]], [0, 1]),
    "a target that nothing is left for": ([[0, 9], [0, 0], [0, 0]], [1, 0]),
    "no counts at all": ([[0, 0], [0, 0], [0, 0]], [0, 1]),
    "as many sources as targets": ([[1, 2, 3], [3, 2, 1], [2, 3, 1]], [1, 2, 0]),
    "one target": ([[1], [7], [7]], [1]),
}


@pytest.mark.parametrize(("counts", "expected"), CASES.values(), ids=CASES.keys())
def test_frequency_mapping_by_hand(counts, expected):
    counts = torch.tensor(counts)
    before = counts.clone()
    assert frequency_label_mapping(counts).tolist() == expected == slow_frequency_mapping(counts)
    assert torch.equal(counts, before)


@pytest.mark.parametrize("seed", range(30))
def test_frequency_mapping_equals_the_plain_version(seed):
    generator = torch.Generator().manual_seed(seed)
    target = int(torch.randint(1, 12, (), generator=generator))
    source = target + int(torch.randint(0, 20, (), generator=generator))
    highest = int(torch.randint(1, 6, (), generator=generator))  # small counts: many ties and zeros
    counts = torch.randint(0, highest + 1, (source, target), generator=generator)
    counts[:, torch.rand(target, generator=generator) < 0.2] = 0
    mapping = frequency_label_mapping(counts)
    assert mapping.dtype == torch.int64
    assert mapping.tolist() == slow_frequency_mapping(counts)
    assert len(set(mapping.tolist())) == target


def test_at_the_size_of_sun397_on_text_prompts():
    source, target, images = 81 * 397, 397, 16_000
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % target
    predictions = torch.randint(source, (images,), generator=generator)
    counts = torch.zeros(source, target, dtype=torch.int64)
    counts.index_put_((predictions, labels), torch.tensor(1), accumulate=True)
    mapping = frequency_label_mapping(counts)
    assert len(set(mapping.tolist())) == target
    assert describe_mapping(counts, mapping[:, None])["targets_without_predictions"] == 0


@pytest.mark.parametrize("make", [frequency_label_mapping, lambda c: random_label_mapping(*c.shape, torch.Generator())])
def test_more_targets_than_sources_are_refused(make):
    with pytest.raises(ValueError, match="3 target labels"):
        make(torch.zeros(2, 3, dtype=torch.int64))


def test_random_mapping_is_one_to_one_and_follows_its_seed():
    def draw(seed: int) -> list[int]:
        return random_label_mapping(1000, 102, torch.Generator().manual_seed(seed)).tolist()

    assert draw(7) == draw(7) != draw(8)
    assert len(set(draw(7))) == 102
    assert sorted(random_label_mapping(5, 5, torch.Generator()).tolist()) == [0, 1, 2, 3, 4]


def test_counting_predictions_by_hand():
    # the "network" reads the source logits off the images
    logits = torch.tensor([[0.0, 2, 1], [9, 1, 0], [0, 1, 5], [3, 3, 0]])  # arg-max 1, 0, 2, and 0 (first of equals)
    labels = torch.tensor([0, 1, 1, 0])
    batches = [(logits[:3], labels[:3]), (logits[3:], labels[3:])]
    counts = count_predictions(lambda x: x, batches, 3, 2)
    assert counts.tolist() == [[1, 1], [1, 0], [0, 1]]
    assert counts.dtype == torch.int64


def test_a_counter_counts_batch_by_batch():
    network, counter = torch.nn.Identity(), PredictionCounter(3, 2)
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(4, 3, generator=generator), torch.randint(2, (4,), generator=generator)) for _ in range(5)]
    for x, labels in batches:
        counter(network(x), labels)
    assert torch.equal(counter.take(), count_predictions(network, batches, 3, 2))
    assert counter.take().sum() == 0


@pytest.mark.parametrize(
    ("mapping", "without", "precision"),
    [
        ([0, 2, 1], 1, 5 / 8),  # all images are predicted as a source in the map, 4 + 1 of 8 as their target's
        ([1, 0, 2], 2, 1 / 8),
        ([0, 0, 3], 2, 4 / 6),  # many-to-one: 6 images are predicted as source 0, 4 of them are of target 0
        ([3, 1, 3], 3, 0),  # sources that nothing is predicted as
    ],
)
def test_what_a_mapping_is_worth(mapping, without, precision):
    counts = torch.tensor([[4, 0, 2], [0, 0, 0], [0, 1, 1], [0, 0, 0]])
    worth = describe_mapping(counts, torch.tensor(mapping)[:, None])
    assert worth == {"targets_without_predictions": without, "mapping_precision": precision}


MAJORITIES = {
    "two targets share a source": ([[5, 4], [1, 0], [0, 2]], [0, 0]),
    "ties go to the smallest source": ([[0, 3], [4, 1], [4, 3]], [1, 0]),
    "a target without predictions": ([[0, 0], [0, 2], [0, 0]], [0, 1]),
    "more targets than sources": ([[1, 0, 2], [0, 9, 2]], [0, 1, 0]),
}


@pytest.mark.parametrize(("counts", "expected"), MAJORITIES.values(), ids=MAJORITIES.keys())
def test_majority_by_hand(counts, expected):
    assert majority_label_mapping(torch.tensor(counts)).tolist() == expected


def test_majority_equals_the_slow_version():
    counts = torch.randint(4, (40, 60), generator=torch.Generator().manual_seed(0))
    slow = [min(range(40), key=lambda s: (-counts[s, t].item(), s)) for t in range(60)]
    assert majority_label_mapping(counts).tolist() == slow


def test_a_counter_is_saved_and_loaded():
    counter, again = PredictionCounter(6, 3), PredictionCounter(6, 3)
    counter(torch.eye(6)[[5, 0, 0, 2]], torch.tensor([1, 2, 2, 0]))
    assert counter.state_dict()["pairs"].tolist() == [[0, 2], [2, 0], [5, 1]]
    assert counter.state_dict()["counts"].tolist() == [2, 1, 1]
    again.load_state_dict(counter.state_dict())
    assert torch.equal(again.take(), counter.take())
    assert again.take().tolist() == [[0] * 3] * 6
    again.load_state_dict(counter.state_dict())  # empty by now
    assert again.take().sum() == 0


def test_what_a_mapping_of_several_sources_is_worth():
    counts = torch.tensor([[4, 0], [2, 1], [0, 3], [0, 5]])
    sources = torch.tensor([[0, 1], [2, -1]])  # target 1 has one source label alone
    worth = describe_mapping(counts, sources)
    assert worth == {"targets_without_predictions": 0, "mapping_precision": (4 + 2 + 3) / (4 + 2 + 1 + 3)}


def test_counting_takes_few_operations_and_reads_nothing_from_the_device():
    """On the `meta` device reading a value is an error. `index_put_` that adds up takes about 25 kernels on CUDA."""
    counter = PredictionCounter(7, 3)
    logits, labels = torch.rand(5, 7, device="meta"), torch.zeros(5, dtype=torch.int64, device="meta")
    counter(logits, labels)
    with Calls() as calls:
        counter(logits, labels)
    assert len(calls.names) <= 5 and "aten.scatter_add_" in calls.names
