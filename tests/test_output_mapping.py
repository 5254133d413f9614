"""The three output mappings by hand, and what is the same for all of them."""

import pytest
import torch
from torch import nn

from errors import UserError
from models.output_mapping import LinearLabels, SelectLabels, WeightLabels

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("float64")]
LOGITS = torch.tensor([[10.0, 20, 30, 40, 50, 60], [1, 2, 3, 4, 5, 6]], dtype=torch.float64)
SOURCES, TARGETS = "abcdef", ("x", "y")


def test_one_source_a_target():
    mapping = SelectLabels(2)
    assert mapping.index.tolist() == [-1, -1]
    assert mapping.changed is None
    assert mapping.set(torch.tensor([5, 0])) == 1.0
    assert mapping(LOGITS).tolist() == [[60, 10], [6, 1]]
    assert mapping.set(torch.tensor([5, 2])) == mapping.changed == 0.5
    assert mapping.sources.tolist() == [[5], [2]]
    assert mapping.named(SOURCES, TARGETS) == {"x": "f", "y": "c"}
    assert mapping.state_dict().keys() == {"index"}


def test_the_mean_of_several_sources():
    mapping = SelectLabels(2, num_sources=3)
    assert mapping.index.tolist() == [[-1] * 3] * 2
    assert mapping.set(torch.tensor([[0, 1, 4], [3, 2, 5]])) == 1.0
    torch.testing.assert_close(mapping(LOGITS)[0], torch.tensor([80 / 3, 130 / 3]))  # AutoVP's example
    assert mapping.set(torch.tensor([[0, 4, 1], [2, 3, 5]])) == 0.5  # the strongest source is the first
    assert mapping.named(SOURCES, TARGETS) == {"x": "a, e, b", "y": "c, d, f"}


def test_weights():
    mapping = WeightLabels(6, 2)
    assert mapping.sources.tolist() == [[-1], [-1]]
    weight = torch.tensor([[0.5, 0], [0.25, 0], [0, 0], [0, 0.6], [0.25, 0.4], [0, 0]])
    assert mapping.set(weight) == 1.0
    torch.testing.assert_close(mapping(LOGITS), LOGITS @ weight)
    assert mapping(LOGITS)[1].tolist() == pytest.approx([0.5 + 0.5 + 1.25, 2.4 + 2.0])
    assert mapping.sources.tolist() == [[0], [3]]
    assert mapping.set(weight.flip(1)) == 1.0
    assert mapping.set(weight.flip(1) * 2) == 0.0  # the strongest sources are the same
    assert mapping.named(SOURCES, TARGETS)["y"] == "a (1.00), b (0.50), e (0.50)"
    assert not list(mapping.parameters())


def test_a_class_without_images_has_no_source():
    mapping = WeightLabels(6, 2)
    assert mapping.set(torch.eye(6, 1).repeat(1, 2) * torch.tensor([1.0, 0.0])) == 0.5
    assert mapping.sources.tolist() == [[0], [-1]]
    assert mapping.named(SOURCES, TARGETS) == {"x": "a (1.00)", "y": "no source class"}


def test_a_linear_layer_starts_and_learns():
    torch.manual_seed(0)
    mapping = LinearLabels(6, 2, identity=True)
    torch.testing.assert_close(mapping(LOGITS), LOGITS[:, :2] + mapping.layer.bias)
    assert mapping.sources.tolist() == [[0], [1]]
    mapping(LOGITS).sum().backward()
    assert torch.equal(mapping.layer.weight.grad, LOGITS.sum(0).expand(2, 6))
    torch.manual_seed(1)
    reference = nn.Linear(6, 2)
    torch.manual_seed(1)
    assert torch.equal(LinearLabels(6, 2).layer.weight, reference.weight)
    assert mapping.set(torch.tensor([[0.0, 1]] * 3 + [[1.0, 0]] * 3)) == 1.0
    torch.testing.assert_close(mapping(LOGITS)[1], torch.tensor([15.0, 6.0]))
    assert mapping.named(SOURCES, TARGETS)["x"] == "d (1.00), e (1.00), f (1.00)"


def test_one_hot_weights_and_layers_are_selections():
    index = torch.tensor([4, 1])
    one_hot = torch.eye(6)[:, index]
    select, weights, layer = SelectLabels(2), WeightLabels(6, 2), LinearLabels(6, 2)
    assert select.set(index) == weights.set(one_hot) == 1.0
    layer.set(one_hot)
    for mapping in (weights, layer):
        assert torch.equal(mapping.sources, select.sources)
        torch.testing.assert_close(mapping(LOGITS), select(LOGITS))


MAPPINGS = (
    lambda: SelectLabels(2),
    lambda: SelectLabels(2, 3),
    lambda: WeightLabels(6, 2),
    lambda: LinearLabels(6, 2),
)


@pytest.mark.parametrize("make", MAPPINGS)
def test_they_change_no_argument(make):
    mapping, logits = make(), LOGITS.clone()
    value = torch.arange(6).view(2, 3)[:, : mapping.sources.shape[1]].squeeze(1)
    value = value if isinstance(mapping, SelectLabels) else torch.rand(6, 2)
    before = value.clone()
    mapping.set(value)
    mapping(logits)
    assert torch.equal(logits, LOGITS) and torch.equal(value, before)


def test_a_source_label_below_zero_is_refused():
    with pytest.raises(UserError, match="The smallest is -1"):
        SelectLabels(2, 2).set(torch.tensor([[0, 1], [2, -1]]))


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda: SelectLabels(2), torch.tensor(3)),
        (lambda: SelectLabels(2), torch.tensor([3])),
        (lambda: SelectLabels(2, 3), torch.tensor([1, 2, 3])),
        (lambda: WeightLabels(6, 2), torch.rand(2, 6)),
        (lambda: LinearLabels(6, 2), torch.rand(2, 6)),
    ],
)
def test_other_shapes_are_refused(make, value):
    with pytest.raises(UserError, match=r"mapping\.set takes a tensor of the shape"):
        make().set(value)
