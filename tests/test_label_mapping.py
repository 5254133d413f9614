"""Label mappings against hand-made cases and against a slow, plain version."""

import pytest
import torch

from algorithms.label_mapping import (
    bayesian_label_mapping,
    describe_mapping,
    frequency_label_mapping,
    majority_label_mapping,
    random_label_mapping,
    semantic_label_mapping,
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


def test_what_a_mapping_of_several_sources_is_worth():
    counts = torch.tensor([[4, 0], [2, 1], [0, 3], [0, 5]])
    sources = torch.tensor([[0, 1], [2, -1]])  # target 1 has one source label alone
    worth = describe_mapping(counts, sources)
    assert worth == {"targets_without_predictions": 0, "mapping_precision": (4 + 2 + 3) / (4 + 2 + 1 + 3)}


def slow_several_sources(counts: torch.Tensor, sources: int) -> list[list[int]]:
    """FreqMap word for word: the largest remaining count, zeros too, as long as a target lacks a source."""
    mapping: list[list[int]] = [[] for _ in range(counts.shape[1])]
    order = sorted((-counts[s, t].item(), s, t) for s in range(counts.shape[0]) for t in range(counts.shape[1]))
    for _, source, target in order:
        if len(mapping[target]) < sources and not any(source in row for row in mapping):
            mapping[target].append(source)
    return mapping


PREDICTED = torch.tensor([[3, 1], [2, 0], [0, 1], [0, 2], [0, 0], [0, 0]])


@pytest.mark.parametrize(("sources", "expected"), [(2, [[0, 1], [3, 2]]), (3, [[0, 1, 4], [3, 2, 5]])])
def test_several_sources_by_hand(sources, expected):
    assert frequency_label_mapping(PREDICTED, sources).tolist() == expected == slow_several_sources(PREDICTED, sources)


def test_several_sources_of_targets_without_predictions():
    counts = torch.zeros(6, 3, dtype=torch.int64)
    counts[5] = 1
    assert frequency_label_mapping(counts, 2).tolist() == [[5, 0], [1, 2], [3, 4]]


@pytest.mark.parametrize("seed", range(10))
def test_several_sources_equal_the_plain_version(seed):
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 4, (17, 5), generator=generator)
    masses = torch.rand(17, 5, generator=generator, dtype=torch.float64)
    for matrix in (counts, masses):
        assert frequency_label_mapping(matrix, 3).tolist() == slow_several_sources(matrix, 3)
        assert frequency_label_mapping(matrix).tolist() == [row[0] for row in slow_several_sources(matrix, 1)]


KEPT = {
    "keeps its former source, which is unused": ([[0, 9], [0, 0], [0, 0]], [2, 0], [2, 0]),
    "another target has taken it": ([[0, 9], [0, 0], [0, 0]], [0, 2], [1, 0]),
    "its only count is another target's source, too": ([[3, 9], [0, 0], [0, 0]], [2, 1], [2, 0]),
    "a former source comes before another target's smallest": ([[0, 0, 0]] * 4, [-1, 0, 1], [2, 0, 1]),
    "nothing was there before": ([[0, 0], [0, 3], [0, 0]], [-1, -1], [0, 1]),
    "counts come first": ([[1, 0], [0, 1], [0, 0]], [1, 2], [0, 1]),
}


@pytest.mark.parametrize(("counts", "former", "expected"), KEPT.values(), ids=KEPT.keys())
def test_a_target_without_a_count_keeps_its_former_source(counts, former, expected):
    counts, former = torch.tensor(counts), torch.tensor(former)
    assert frequency_label_mapping(counts, former=former).tolist() == expected
    assert frequency_label_mapping(counts, former=former[:, None]).tolist() == expected


def test_some_of_several_sources_are_kept():
    counts = torch.zeros(9, 3, dtype=torch.int64)
    counts[6, 1] = 1  # it is target 2's former source
    former = torch.tensor([[8, 5], [4, 3], [7, 6]])
    assert frequency_label_mapping(counts, 2, former).tolist() == [[8, 5], [6, 4], [7, 0]]
    wider = torch.tensor([[8, 5, 2], [4, 3, 1], [7, 6, 0]])
    assert frequency_label_mapping(counts, 2, wider).tolist() == [[8, 5], [6, 4], [7, 0]]


@pytest.mark.parametrize("seed", range(10))
def test_kept_sources_are_one_to_one(seed):
    generator = torch.Generator().manual_seed(seed)
    former = random_label_mapping(40, 30, generator).reshape(15, 2)
    counts = torch.randint(0, 3, (40, 15), generator=generator)
    counts[:, torch.rand(15, generator=generator) < 0.5] = 0
    counts[torch.rand(40, generator=generator) < 0.5] = 0
    mapping = frequency_label_mapping(counts, 2, former)
    assert len(mapping.unique()) == 30
    plain = frequency_label_mapping(counts, 2)
    by_count = counts.gather(0, plain.T).T > 0
    assert torch.equal(mapping[by_count], plain[by_count])  # what counts choose stays
    free = [source for source in former.flatten().tolist() if source not in plain[by_count].tolist()]
    for row, old, missing in zip(mapping.tolist(), former.tolist(), (2 - by_count.sum(1)).tolist(), strict=True):
        kept = [source for source in old if source in free]
        assert [source for source in row if source in kept] == kept[:missing]


def test_masses_are_followed_as_far_as_they_are_needed(monkeypatch):
    masses = torch.rand(50, 4, generator=torch.Generator().manual_seed(0))
    expected = frequency_label_mapping(masses, 2).tolist()
    monkeypatch.setattr("algorithms.label_mapping._CHUNK", 3)
    assert frequency_label_mapping(masses, 2).tolist() == expected


def test_semantic_mapping_by_hand():
    similarities = torch.tensor([[0.9, 0.8], [0.5, 0.7], [0.1, 0.2], [0.3, 0.1]])
    before = similarities.clone()
    assert semantic_label_mapping(similarities, 2).tolist() == [[0, 3], [1, 2]]
    assert semantic_label_mapping(similarities).tolist() == [0, 1]
    assert torch.equal(similarities, before)


@pytest.mark.parametrize("make", [frequency_label_mapping, semantic_label_mapping])
def test_too_few_sources_for_several_are_refused(make):
    with pytest.raises(ValueError, match="2 target labels cannot have 3 source labels each out of 5"):
        make(torch.zeros(5, 2), 3)


TOP2, ALL3 = [[1.1, 0], [0.3, 0.3], [0.3, 0.6]], [[1.1, 0.1], [0.5, 0.3], [0.4, 0.6]]
BAYESIAN = {
    "BLM": ([[2, 0], [1, 1], [0, 1]], 1.0, [[2 / 3, 0], [1 / 3, 0.4], [0, 0.6]]),
    "without smoothing": ([[2, 0], [1, 1], [0, 1]], 0.0, [[2 / 3, 0], [1 / 3, 1 / 3], [0, 2 / 3]]),
    "a source that nobody predicts": ([[1, 0], [0, 0], [0, 1]], 0.0, [[1, 0], [0, 0], [0, 1]]),
    "a target without an image": ([[1, 0], [1, 0]], 1.0, [[0.5, 0], [0.5, 0]]),
    "BLM+, k = 2": (TOP2, 1.0, [[0.60263, 0], [0.21571, 0.37255], [0.18165, 0.62745]]),
    "BLM+, k = 3": (ALL3, 1.0, [[0.51136, 0.08876], [0.28409, 0.32544], [0.20455, 0.58580]]),
}


@pytest.mark.parametrize(("counts", "smoothing", "expected"), BAYESIAN.values(), ids=BAYESIAN.keys())
def test_bayesian_mapping_by_hand(counts, smoothing, expected):
    weights = bayesian_label_mapping(torch.tensor(counts), smoothing)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["counts", "masses"])
def test_bayesian_mapping_equals_the_slow_version(kind):
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 4, (30, 9), generator=generator)
    counts[:, 4] = 0
    matrix = counts if kind == "counts" else counts * torch.rand(30, 9, generator=generator)
    shares = [[float(matrix[s, t]) / (float(matrix[s].sum()) + 1) for t in range(9)] for s in range(30)]
    totals = [sum(row[t] for row in shares) for t in range(9)]
    slow = [[row[t] / totals[t] if totals[t] else 0.0 for t in range(9)] for row in shares]
    torch.testing.assert_close(bayesian_label_mapping(matrix), torch.tensor(slow, dtype=torch.float32))
