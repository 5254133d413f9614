"""A prompt whose strength at each place depends on the image: a small network makes a mask of it (SMM)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import UserError
from models.part import Part

_WIDTHS = (8, 16, 32, 64, 128)  # channels after each convolution but the last


class SampleSpecificVisualPrompt(Part):
    """h(x) = x + std * program * up(mask(z)), z = (x - mean) / std (SMM, Cai et al., ICML 2024).

    All images share the program. The mask of each image comes from a convolutional network, and each of its values
    holds for a square of `patch_size` pixels. Masks are not bounded, and may be negative. Images in and out are in
    [0,1]. The program lives in the network's normalised space.

    Args:
        canvas_size: side H = W of the images in pixels, a multiple of `patch_size`.
        mean, std: (3,), the network's normalisation.
        patch_size: 1, 2, 4, 8, 16 or 32 pixels. 32 needs 6 layers.
        mask_channels: 3, a mask for each colour channel; or 1, one mask for all of them: the mean over the last
            features, without the last convolution.
        mask_layers: convolutions of the mask network: 5 (the paper's for residual networks) or 6 (for ViTs).

    State: `program` (3,H,W) float32, zero at the start, and `mask_network`, which starts as torch initialises its
    layers. So the prompted image is the image at the start, and the mask network's first gradient is zero. The mask
    network's batch normalisation has running statistics; so the prompt is not `graphable`.

    Raises:
        UserError: the sizes do not fit.
    """

    def __init__(
        self,
        canvas_size: int,
        mean: Tensor,
        std: Tensor,
        patch_size: int = 8,
        mask_channels: int = 3,
        mask_layers: int = 5,
    ):
        super().__init__()
        halvings = patch_size.bit_length() - 1
        if 2**halvings != patch_size or canvas_size % patch_size or halvings >= mask_layers:
            raise UserError(
                f"--patch-size {patch_size}: it has to be a power of 2 that divides the network's input of"
                f" {canvas_size} pixels.",
                f"A mask network of {mask_layers} layers makes patches of at most {2 ** (mask_layers - 1)} pixels.",
                "Choose another --patch-size, or --mask-layers 6.",
            )
        self.patch_size, self.mask_channels = patch_size, mask_channels
        self.program = nn.Parameter(torch.zeros(3, canvas_size, canvas_size))
        self.mask_network = _mask_network(mask_layers, halvings, last=mask_channels == 3)
        self.register_buffer("mean", mean.detach().clone().view(3, 1, 1), persistent=False)
        self.register_buffer("unit", std.detach().clone().view(3, 1, 1), persistent=False)

    def masks(self, x: Tensor) -> Tensor:
        """(B,3,H,W), or (B,1,H,W) for one channel, of images (B,3,H,W) in [0,1]."""
        masks = self.mask_network((x - self.mean) / self.unit)
        if self.mask_channels == 1:
            masks = masks.mean(1, keepdim=True)
        return F.interpolate(masks, scale_factor=self.patch_size, mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.unit * self.program * self.masks(x)


def _mask_network(layers: int, halvings: int, last: bool) -> nn.Sequential:
    """3 x 3 convolutions, each with batch normalisation and ReLU. The first `halvings` of them halve the sides.

    Args:
        last: whether a convolution to 3 channels follows, the last of the layers.
    """
    modules: list[nn.Module] = []
    for number, (before, after) in enumerate(zip((3, *_WIDTHS), _WIDTHS[: layers - 1], strict=False)):
        modules += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        modules += [nn.MaxPool2d(2)] if number < halvings else []
    return nn.Sequential(*modules, *([nn.Conv2d(after, 3, 3, padding=1)] if last else []))
