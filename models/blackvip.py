"""BlackVIP's prompt: pixels that a decoder makes of each image's features and of learned values (CVPR 2023)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import UserError
from models.networks import CPU, load_network
from models.part import Part

_START = (32, 7, 7)  # what the decoder sees
_VALUES = 32 * 7 * 7
_SIDE = 224  # what the decoder makes


class CoordinatedVisualPrompt(Part):
    """h(x) = clip(x + strength * std * decoder([encoder(z), trigger]), 0, 1), z = (x - mean) / std.

    BlackVIP (Oh et al., CVPR 2023, Section 3.2). The encoder is frozen. Its features (for ViTs the class token before
    the last normalisation) and the trigger are 1568 values together, which the decoder makes an image of. Images in and
    out are in [0,1]; the prompt lives in the network's normalised space.

    Args:
        canvas_size: side H = W of the images in pixels. The decoder's image has 224, and is resized to it.
        mean, std: (3,), the network's normalisation. The encoder gets images with this one, too, as in the paper.
        strength: the paper's p_eps.
        encoder: as `--network`; it has fewer than 1568 features. The paper's is timm:vit_base_patch16_224.mae.
        weights: the hash of the encoder's weights, as a checkpoint has it; None: any weights.

    State: `trigger` (1568 - features,), uniform in [0,0.1) at the start, and `decoder`. With the paper's encoder these
    are 800 and 9,120 values. The encoder is no part of the state. The decoder has batch normalisation, so the prompt is
    not `graphable`.

    Raises:
        UserError: the encoder cannot be loaded, has other weights, or too many features.
    """

    def __init__(
        self, canvas_size: int, mean: Tensor, std: Tensor, strength: float, encoder: str, weights: str | None = None
    ):
        super().__init__()
        network = load_network(encoder, CPU, num_classes=0)
        if weights not in (None, network.fingerprint):
            asked = f"--encoder {encoder}: the weights that the checkpoint was trained with are needed."
            found = f"Others were loaded: their hash is {network.fingerprint}, not {weights}."
            raise UserError(asked, found, "Put the file of the weights back.")
        features = len(network.class_names)
        if features >= _VALUES:
            raise UserError(
                f"--encoder {encoder}: its features and the learned trigger are {_VALUES} values together.",
                f"It has {features} features.",
                "Choose a smaller one, for example --encoder timm:vit_base_patch16_224.mae",
            )
        if isinstance(getattr(network.body, "norm", None), nn.LayerNorm):
            network.body.norm = nn.Identity()
        self._encoder, self.encoder_weights = [network], network.fingerprint  # a list: it is not saved
        self.canvas_size, self.strength = canvas_size, strength
        self.trigger = nn.Parameter(0.1 * torch.rand(_VALUES - features))
        self.decoder = _decoder()
        self.register_buffer("mean", mean.detach().clone().view(3, 1, 1), persistent=False)
        self.register_buffer("unit", std.detach().clone().view(3, 1, 1), persistent=False)
        self._seen: tuple[Tensor, int, Tensor] | None = None

    def described(self) -> dict[str, Any]:
        """As `Part.described`; the encoder's weights are not saved, so their hash is."""
        description = super().described()
        description["arguments"]["weights"] = self.encoder_weights
        return description

    def _apply(self, fn, *args, **kwargs):
        self._encoder[0]._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """(B,D) of images (B,3,H,W). The same images again, as a step without gradients asks for, are not encoded."""
        if self._seen is not None:
            images, version, features = self._seen
            same = images.data_ptr() == x.data_ptr() and images.shape == x.shape and images.stride() == x.stride()
            if same and version == x._version:
                return features
        network = self._encoder[0]
        z, side = (x - self.mean) / self.unit, network.input_size
        if side != self.canvas_size:
            z = F.interpolate(z, (side, side), mode="bilinear", antialias=True)
        features = network.body(z).float()
        self._seen = x, x._version, features  # it keeps the images, so that no others get their memory
        return features

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        start = torch.cat([features, self.trigger.expand(len(x), -1)], dim=1).view(len(x), *_START)
        pixels = self.decoder(start)
        if self.canvas_size != _SIDE:
            pixels = F.interpolate(pixels, (self.canvas_size,) * 2, mode="bilinear", antialias=True)
        return (x + self.strength * self.unit * pixels).clamp(0, 1)


def _decoder() -> nn.Sequential:
    """(B,32,7,7) -> (B,3,224,224): five transposed convolutions that double the side; 9,120 parameters."""
    layers: list[nn.Module] = []
    for first, wide, after in ((32, 64, 64), (64, 64, 32), (32, 32, 32), (32, 32, 16)):
        layers += [
            nn.ConvTranspose2d(first, wide, 2, stride=2, groups=first),
            nn.Conv2d(wide, after, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.GELU(),
        ]
    return nn.Sequential(*layers, nn.ConvTranspose2d(16, 3, 2, stride=2, bias=False))
