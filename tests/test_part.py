"""Parts from their descriptions: what a checkpoint may hold, and what it may not reach."""

import copy
import io

import pytest
import torch

from errors import UserError
from models.output_mapping import LinearLabels, SelectLabels, WeightLabels
from models.part import Part, rebuilt
from models.visual_prompt import (
    AdditiveVisualPrompt,
    ExpansiveVisualPrompt,
    NoVisualPrompt,
    PaddedVisualPrompt,
    RandomPatchVisualPrompt,
    corner,
    frame,
)

PARTS = {
    "expansive": lambda: ExpansiveVisualPrompt(8, canvas_size=16),
    "expansive with a mask": lambda: ExpansiveVisualPrompt(8, 16, torch.tril(torch.ones(8, 8))),
    "additive": lambda: AdditiveVisualPrompt(corner(16, 3), torch.rand(3)),
    "padded": lambda: PaddedVisualPrompt(8, frame(16, 2)),
    "random patch": lambda: RandomPatchVisualPrompt(3, 16, torch.ones(3)),
    "none": lambda: NoVisualPrompt(),
    "select": lambda: SelectLabels(4),
    "several sources": lambda: SelectLabels(4, num_sources=2),
    "weights": lambda: WeightLabels(9, 4),
    "linear": lambda: LinearLabels(9, 4, identity=True),
}


@pytest.mark.parametrize("make", PARTS.values(), ids=PARTS)
def test_a_part_comes_back_through_a_file(make):
    part, file = make(), io.BytesIO()
    torch.save({"part": part.described(), "state": part.state_dict()}, file)
    file.seek(0)
    content = torch.load(file, weights_only=True)
    again = rebuilt(content["part"])
    again.load_state_dict(content["state"])
    assert type(again) is type(part)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in part.state_dict().items())
    assert dict(again.named_buffers()).keys() == dict(part.named_buffers()).keys()


def test_a_copy_keeps_its_arguments():
    part = copy.deepcopy(ExpansiveVisualPrompt(8, canvas_size=16))
    assert part.arguments == {"image_size": 8, "canvas_size": 16}


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.eval",
        "models.part.os.system",
        "models.part.importlib.import_module",
        "models.part.rebuilt",
        "models.part._plain",
        "models.networks.load_network",
        "models.networks.Network",  # no part: it is loaded by its name
        "models.visual_prompt.Part",  # defined elsewhere
        "models.visual_prompt.nn",
        "models.visual_prompt.Missing",
        "models.missing.Prompt",
        "models..visual_prompt.NoVisualPrompt",
        "tests.test_part.Outside",
        "models.visual_prompt",
        "NoVisualPrompt",
        "",
        7,
        None,
    ],
)
def test_nothing_else_is_looked_up(name):
    with pytest.raises(UserError, match=r"does not lie in models/|There is no such class|It is no part"):
        rebuilt({"class": name, "arguments": {}})


class Outside(Part):
    """A part that lies outside of models/."""

    def __init__(self, value):
        super().__init__()


def test_arguments_are_plain_values():
    assert Outside([1, "a", None, 0.5, True, torch.ones(1)]).described()["arguments"]["value"][:5] == [
        1,
        "a",
        None,
        0.5,
        True,
    ]
    with pytest.raises(UserError, match=r"value is a function(.|\n)*Give numbers"):
        Outside(lambda: 0).described()
