"""Expected calibration error and temperature, against numbers worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from algorithms.calibration import TEMPERATURES, LogitStore, Reliability, fit_temperature

pytestmark = pytest.mark.numeric


def logits_of(*confidences: float) -> torch.Tensor:
    """Two classes, of which the first one has these probabilities."""
    first = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([first, 1 - first], 1).log()


def test_the_error_by_hand():
    """Bin (9/15, 10/15]: 0.62 and 0.66, one of two right, gap 0.14. Bin (12/15, 13/15]: 0.85, wrong, gap 0.85. The
    last bin: 0.95 and 1, both right, gap 0.025. Of 5 images: (2 * 0.14 + 0.85 + 2 * 0.025) / 5 = 0.236."""
    reliability = Reliability()
    reliability(logits_of(0.62, 0.85, 0.95), torch.tensor([0, 1, 0]))
    reliability(logits_of(0.66, 1.0), torch.tensor([1, 0]))
    assert reliability.error == pytest.approx(0.236, abs=1e-12)
    filled = {number: one for number, one in enumerate(reliability.bins, start=1) if one["images"]}
    assert {number: one["images"] for number, one in filled.items()} == {10: 2, 13: 1, 15: 2}
    assert filled[10]["accuracy"] == 0.5 and filled[10]["confidence"] == pytest.approx(0.64)
    assert reliability.bins[0] == {"images": 0, "accuracy": None, "confidence": None} and len(reliability.bins) == 15


def test_a_bin_has_its_upper_end_and_not_its_lower_one():
    """Four classes alike: confidence 1/4. Three of three, 1/3 = 5/15, falls into the fifth bin."""
    reliability = Reliability()
    reliability(torch.zeros(1, 3, dtype=torch.float64), torch.tensor([0]))
    reliability(torch.zeros(2, 5, dtype=torch.float64), torch.tensor([0, 1]))  # 1/5 = 3/15
    assert [one["images"] for one in reliability.bins] == [0, 0, 2, 0, 1] + [0] * 10


def test_it_does_not_depend_on_the_batches_and_is_0_without_images():
    torch.manual_seed(0)
    logits, labels = 2 * torch.randn(40, 5), torch.randint(5, (40,))
    one, many = Reliability(1.7), Reliability(1.7)
    one(logits, labels)
    for part in zip(logits.split(7), labels.split(7), strict=True):
        many(*part)
    assert many.error == pytest.approx(one.error, abs=1e-12)
    assert Reliability().error == 0

    confidence, predicted = (logits.double() / 1.7).softmax(1).max(1)  # the definition, bin by bin
    expected = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            gap = (predicted == labels)[inside].double().mean() - confidence[inside].mean()
            expected += inside.sum().item() / 40 * abs(gap.item())
    assert one.error == pytest.approx(expected, abs=1e-12)


def test_a_temperature_that_is_known_in_closed_form():
    """All images have the logits (2 log 3, 0), 3 of 4 are right: sigmoid(2 log 3 / T) = 3/4 at T = 2."""
    logits, labels = torch.tensor([[2 * math.log(3), 0.0]]).expand(4, 2), torch.tensor([0, 0, 1, 0])
    assert fit_temperature(logits, labels) == pytest.approx(2, abs=1e-5)
    scaled = Reliability(2.0)
    scaled(logits, labels)
    assert scaled.error == pytest.approx(0, abs=1e-6)


def test_the_temperature_is_a_minimum_of_cross_entropy():
    torch.manual_seed(0)
    logits = 5 * torch.randn(300, 6)
    labels = (logits / 3).softmax(1).multinomial(1)[:, 0]
    found = fit_temperature(logits, labels)
    losses = [F.cross_entropy(logits.double() / t, labels).item() for t in (found, 0.98 * found, 1.02 * found)]
    assert 2 < found < 4 and losses[0] == min(losses)


def test_where_all_images_are_right_there_is_no_best_temperature():
    assert fit_temperature(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])) is None


def test_logits_worse_than_chance_get_the_highest_temperature():
    found = fit_temperature(torch.tensor([[3.0, 0.0]]).expand(4, 2), torch.tensor([1, 1, 1, 0]))
    assert found == pytest.approx(TEMPERATURES[1], rel=1e-3)


def test_stored_logits_come_in_order():
    store = LogitStore()
    for start in (0, 3):
        store(torch.arange(start, start + 3.0)[:, None].expand(3, 2), torch.arange(start, start + 3))
    logits, labels = store.take()
    assert logits[:, 0].tolist() == labels.tolist() == list(range(6))
