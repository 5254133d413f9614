"""BlackVIP's prompt: how much of it learns, what it makes of an image, and what is saved of it."""

import pytest
import torch
from torch import nn

from errors import UserError
from models import blackvip
from models.blackvip import CoordinatedVisualPrompt
from models.network_row import NetworkRow
from models.network_source import NETWORKS
from models.part import rebuilt

MEAN, STD = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.4, 0.3])


class Features(nn.Module):
    """As a ViT of timm: 768 features after a layer normalisation, which the paper leaves out."""

    def __init__(self, width=768):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, width, 8, stride=8), nn.LayerNorm(width), nn.Identity()

    def reset_classifier(self, num_classes):
        assert num_classes == 0

    def forward(self, x):
        return self.head(self.norm(self.conv(x).mean((2, 3))))


@pytest.fixture
def encoders(monkeypatch):
    for name, width in (("base", 768), ("wide", 1568)):
        row = NetworkRow(lambda width=width: Features(width), input_size=64)
        monkeypatch.setitem(NETWORKS, name, row)


def prompt(encoder="tiny", side=64, strength=0.3) -> CoordinatedVisualPrompt:
    torch.manual_seed(0)
    return CoordinatedVisualPrompt(side, MEAN, STD, strength, encoder)


def test_9920_values_learn_with_the_papers_encoder(encoders):
    made = prompt("base")
    assert sum(parameter.numel() for parameter in made.decoder.parameters()) == 9120
    assert sum(parameter.numel() for parameter in made.parameters()) == 9920
    assert made.trigger.shape == (800,)
    assert made.trigger.min() >= 0 and made.trigger.max() < 0.1


def test_the_decoders_sides_and_channels():
    x, shapes = torch.zeros(2, 32, 7, 7), []
    for layer in blackvip._decoder():
        x = layer(x)
        if isinstance(layer, nn.GELU):
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(64, 14, 14), (32, 28, 28), (32, 56, 56), (16, 112, 112)]
    assert x.shape == (2, 3, 224, 224)


def test_the_prompted_image_is_the_formula(encoders):
    made = prompt("base").eval()
    x = torch.rand(2, 3, 64, 64)
    network = made._encoder[0]
    features = network.body.conv((x - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)).mean((2, 3))  # without the last norm
    torch.testing.assert_close(made.features(x), features)
    start = torch.stack([torch.cat([row, made.trigger]) for row in features]).reshape(2, 32, 7, 7)
    pixels = nn.functional.interpolate(made.decoder(start), (64, 64), mode="bilinear", antialias=True)
    low, high = -MEAN / STD, (1 - MEAN) / STD  # the normalised range
    z = (x - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1) + 0.3 * pixels
    z = z.clamp(low.view(3, 1, 1), high.view(3, 1, 1))
    torch.testing.assert_close(made(x), z * STD.view(3, 1, 1) + MEAN.view(3, 1, 1), atol=1e-6, rtol=1e-5)


def test_the_encoder_is_asked_once_for_the_same_images():
    made, calls = prompt().eval(), []
    made._encoder[0].body.register_forward_hook(lambda *_: calls.append(1))
    x = torch.rand(4, 3, 64, 64)
    first = made(x)
    assert torch.equal(made(x.split(4)[0]), first) and len(calls) == 1
    made(x[:2])
    assert len(calls) == 2
    made(x)
    x.mul_(0.5)
    assert not torch.equal(made(x), first) and len(calls) == 4


def test_the_encoder_moves_with_the_prompt_and_is_not_saved():
    made = prompt()
    assert all(name.startswith(("trigger", "decoder.")) for name in made.state_dict())
    made.train()
    assert not made._encoder[0].training and not any(p.requires_grad for p in made._encoder[0].parameters())
    made.to("meta")
    assert made._encoder[0].body.conv1.weight.is_meta


def test_an_encoder_with_too_many_features_is_refused(encoders):
    with pytest.raises(UserError, match=r"--encoder wide: .*1568 values(.|\n)*has 1568 features"):
        prompt("wide")


def test_its_description_makes_it_again():
    made = prompt()
    description = made.described()
    assert description["arguments"]["encoder"] == "tiny"
    again = rebuilt(description)
    again.load_state_dict(made.state_dict())
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(again.eval()(x), made.eval()(x))


def test_an_encoder_with_other_weights_is_refused():
    description = prompt().described()
    description["arguments"]["weights"] = "0" * 8
    with pytest.raises(UserError, match="--encoder tiny: the weights that the checkpoint was trained with"):
        rebuilt(description)
