"""Counting predictions: by hand, batch by batch, saved and loaded."""

import pytest
import torch
from conftest import Calls

from algorithms.predictions import PredictionCounter, TargetPredictions, confusion, count_predictions

pytestmark = pytest.mark.numeric


def test_counting_predictions_by_hand():
    # the "network" reads the source logits off the images
    logits = torch.tensor([[0.0, 2, 1], [9, 1, 0], [0, 1, 5], [3, 3, 0]])  # arg-max 1, 0, 2, and 0 (first of equals)
    labels = torch.tensor([0, 1, 1, 0])
    batches = [(logits[:3], labels[:3]), (logits[3:], labels[3:])]
    counts, masses = count_predictions(lambda x: x, batches, PredictionCounter(3, 2))
    assert masses is None
    assert counts.tolist() == [[1, 1], [1, 0], [0, 1]]
    assert counts.dtype == torch.int64


def test_a_counter_counts_batch_by_batch():
    network, counter = torch.nn.Identity(), PredictionCounter(3, 2)
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(4, 3, generator=generator), torch.randint(2, (4,), generator=generator)) for _ in range(5)]
    for x, labels in batches:
        counter(network(x), labels)
    assert torch.equal(counter.take().counts, count_predictions(network, batches, PredictionCounter(3, 2)).counts)
    assert counter.take().counts.sum() == 0


PROBABILITIES = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.2, 0.3], [0.1, 0.3, 0.6]])
LABELS = torch.tensor([0, 0, 1])


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        (1, [[1.1, 0], [0, 0], [0, 0.6]]),
        (2, [[1.1, 0], [0.3, 0.3], [0.3, 0.6]]),
        (3, [[1.1, 0.1], [0.5, 0.3], [0.4, 0.6]]),
    ],
)
def test_masses_by_hand(top, expected):
    counter = PredictionCounter(3, 2, top)
    for image in range(3):  # batches of one
        counter(PROBABILITIES[image : image + 1].log(), LABELS[image : image + 1])
    counts, masses = counter.take()
    assert counts.tolist() == [[2, 0], [0, 0], [0, 1]]
    assert masses.dtype == torch.float64
    torch.testing.assert_close(masses, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)
    assert counter.take().masses.sum() == 0


def test_masses_of_real_logits_equal_the_slow_version():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 12, generator=generator), torch.randint(5, (40,), generator=generator)
    slow = torch.zeros(12, 5, dtype=torch.float64)
    for row, label in zip(logits.double(), labels, strict=True):
        for source in row.argsort(descending=True)[:4]:
            slow[source, label] += row[source].exp() / row.exp().sum()
    batches = [(logits[:25], labels[:25]), (logits[25:], labels[25:])]
    torch.testing.assert_close(count_predictions(lambda x: x, batches, PredictionCounter(12, 5, 4)).masses, slow)


def test_a_counter_is_saved_and_loaded():
    counter, again = PredictionCounter(6, 3), PredictionCounter(6, 3)
    counter(torch.eye(6)[[5, 0, 0, 2]], torch.tensor([1, 2, 2, 0]))
    assert counter.state_dict()["pairs"].tolist() == [[0, 2], [2, 0], [5, 1]]
    assert counter.state_dict()["counts"].tolist() == [2, 1, 1]
    again.load_state_dict(counter.state_dict())
    assert torch.equal(again.take().counts, counter.take().counts)
    assert again.take().counts.tolist() == [[0] * 3] * 6
    again.load_state_dict(counter.state_dict())  # empty by now
    assert again.take().counts.sum() == 0


def test_masses_are_saved_and_loaded_with_their_number():
    counter, again = PredictionCounter(3, 2, top=2), PredictionCounter(3, 2)
    counter(PROBABILITIES.log(), LABELS)
    again.load_state_dict(counter.state_dict())
    assert again.top == 2
    again(PROBABILITIES.log(), LABELS)
    counter(PROBABILITIES.log(), LABELS)
    assert all(map(torch.equal, again.take(), counter.take()))


def test_a_state_of_an_earlier_version_is_loaded():
    counter = PredictionCounter(3, 2)
    counter.load_state_dict({"pairs": torch.tensor([[2, 1]]), "counts": torch.tensor([4])})
    assert counter.take().counts.tolist() == [[0, 0], [0, 0], [0, 4]]


def test_counting_takes_few_operations_and_reads_nothing_from_the_device():
    """On the `meta` device reading a value is an error. `index_put_` that adds up takes about 25 kernels on CUDA."""
    counter = PredictionCounter(7, 3)
    logits, labels = torch.rand(5, 7, device="meta"), torch.zeros(5, dtype=torch.int64, device="meta")
    counter(logits, labels)
    with Calls() as calls:
        counter(logits, labels)
    assert len(calls.names) <= 5 and "aten.scatter_add_" in calls.names


def test_the_prediction_of_each_image(monkeypatch):
    """This process evaluates images 0, 2 and 3 of 5; another one brings the predictions of the others."""
    labels = torch.tensor([0, 1, 2, 0, 1])
    found = TargetPredictions(labels, torch.tensor([0, 2, 3]))
    found(torch.eye(3)[[2, 1]], labels[[0, 2]])
    found(torch.eye(3)[[0]], labels[[3]])
    monkeypatch.setattr("algorithms.predictions.all_sum", lambda mine: mine + torch.tensor([0, 1, 0, 0, 2]))
    predicted = found.take()
    assert predicted.tolist() == [2, 1, 1, 0, 2]
    assert found.take().tolist() == [0, 1, 0, 0, 2]  # nothing is left of this process
    assert confusion(predicted, labels, 3).tolist() == [[1, 0, 0], [0, 1, 1], [1, 1, 0]]
