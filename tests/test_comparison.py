"""The drawings of a report that compare methods, and its choice of images: by hand."""

import re

import numpy as np
import pytest

from tools.reporting.comparison import telling
from tools.reporting.drawings import confused_most, confusion_svg, flow, sources_by_epoch
from tools.reporting.run_predictions import RunPredictions, read_predictions

NAMES = ["ant", "bee", "<cow>"]
COUNTS = np.array([[3, 1, 0], [1, 3, 0], [0, 4, 2]])  # rows: predicted, columns: true


def test_a_confusion_matrix_by_hand():
    found = RunPredictions(NAMES, np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 1, 2]))
    assert found.confusion.tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 1]]
    assert found.right.tolist() == [True, False, True, False, True]


def test_a_small_matrix_has_numbers_in_percent_of_the_column():
    svg = confusion_svg(COUNTS, NAMES)
    assert re.findall(r">(\d+)</text>", svg) == ["75", "12", "25", "38", "50", "100"]
    assert svg.count(">ant</text>") == 2 and "&lt;cow&gt;" in svg and "<cow>" not in svg


@pytest.mark.parametrize(("classes", "texts"), [(20, 40 + 20), (21, 42), (130, 260), (131, 0)])
def test_names_stand_beside_a_matrix_as_long_as_they_can_be_read(classes, texts):
    svg = confusion_svg(np.eye(classes, dtype=np.int64), [f"class {number}" for number in range(classes)])
    assert svg.count("<text") == texts and svg.count("<image") == 1
    assert len(svg) < 60_000


def test_the_most_frequent_mistakes():
    assert confused_most(COUNTS, NAMES, 2) == ["bee as <cow>: 4 of 8", "ant as bee: 1 of 4"]
    assert confused_most(np.diag([5, 5, 5]), NAMES, 2) == []


def test_images_that_tell_methods_apart():
    """Images 0, 1 and 2 serve two pairs each, so they come in order. All methods agree on images 3 and 4."""
    right = np.array([[0, 1, 0, 1, 0], [1, 0, 0, 1, 0], [0, 0, 1, 1, 0]], dtype=bool)
    assert telling(right) == [0, 1, 2]
    assert telling(right, most=1) == [0]
    assert telling(np.ones((3, 5), dtype=bool)) == []
    many = np.array([[1] * 9, [0] * 9], dtype=bool)
    assert telling(many) == [0, 1, 2]  # three for each pair


def test_every_pair_gets_the_images_that_there_are():
    right = np.random.default_rng(0).random((5, 40)) < 0.5
    chosen = telling(right, most=40)
    pairs = right[:, None] & ~right[None]
    assert len(set(chosen)) == len(chosen)
    assert np.array_equal(pairs[..., chosen].sum(2).clip(max=3), pairs.sum(2).clip(max=3))


LOG = [
    {"epoch": 1, "new_sources": {"0": "tench", "1": "cock", "2": "hen"}},
    {"epoch": 2, "new_sources": {"0": "cock", "1": "kite"}},
    {"epoch": 3},  # --mapping-interval
    {"epoch": 4, "new_sources": {"0": "jay"}},
]


def test_the_flow_of_a_map():
    assert sources_by_epoch(LOG)[1:] == [{"0": "cock", "1": "kite", "2": "hen"}] * 2 + [
        {"0": "jay", "1": "kite", "2": "hen"}
    ]
    found = flow(LOG)
    assert found.text == "2 of 3 targets changed their source label after the first epoch."
    titles = re.findall("<title>(.*?)</title>", found.svg)
    assert titles == [
        "0: tench, epoch 1",
        "0: cock, epoch 2 to 3",
        "0: jay, epoch 4",
        "1: cock, epoch 1",
        "1: kite, epoch 2 to 4",
    ]
    assert found.svg.count("<path") == 1  # target 0 takes over the source label of target 1


@pytest.mark.parametrize(
    "log", [[], LOG[:1], [LOG[0], {"epoch": 2}], [{"epoch": 1}, {"epoch": 2}], [{"new_sources": 3}] * 2]
)
def test_a_map_that_did_not_change_has_no_flow(log):
    assert flow(log) is None


def test_a_long_and_wide_flow_is_thinned_out():
    log = [
        {"new_sources": {f"<{t}>": f"{t} {epoch}" for t in range(50) if epoch % (t + 1) == 0}} for epoch in range(200)
    ]
    found = flow(log)
    assert "Shown are the 20 that changed most often. Shown are 32 of 200 epochs." in found.text
    assert len(found.svg) < 150_000 and "<0>" not in found.svg and "&lt;0&gt;" in found.svg


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        "{}",
        '{"class_names": ["a"], "labels": [0], "predicted": [0, 0]}',
        '{"class_names": ["a"], "labels": [0], "predicted": [1]}',
        '{"class_names": ["a"], "labels": [], "predicted": []}',
        '{"class_names": ["a"], "labels": [[0]], "predicted": [[0]]}',
        '{"class_names": ["a"], "labels": ["x"], "predicted": [0]}',
    ],
)
def test_damaged_predictions_are_refused(text, tmp_path):
    assert read_predictions(tmp_path) is None
    (tmp_path / "test_predictions.json").write_text(text)
    with pytest.raises(ValueError):
        read_predictions(tmp_path)
