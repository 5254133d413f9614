"""A prompt around an image whose size on the canvas is learned (AutoVP)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.part import Part
from models.visual_prompt import padding

_LEAST, _MOST = 0.1, 5.0


class ScaledVisualPrompt(Part):
    """h(x) = resample(pad(x), scale) + sigmoid(program) * mask(scale) (AutoVP, Tsao et al., ICLR 2024).

    The padded image is scaled about the middle of the canvas, bilinearly, on black. The scale's gradient comes from
    this resampling. The mask is 1 around a hole of floor(image_size * scale) pixels, and has no gradient. Images in and
    out are in [0,1], before the network's normalisation; the program lives in logit space.

    Args:
        image_size: side h = w of the images in pixels, at most `canvas_size`.
        canvas_size: side H = W of the network's input in pixels.
        scale: the scale at the start, in [0.1, 5].

    State: `program` (3,H,W) float32, zero at the start, and `scale` () float32. The optimizer has to call
    `keep_in_range` after each step.
    """

    graphable = True

    def __init__(self, image_size: int, canvas_size: int, scale: float):
        super().__init__()
        self.padding, self.image_size = padding(image_size, canvas_size), image_size
        self.program = nn.Parameter(torch.zeros(3, canvas_size, canvas_size))
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.keep_in_range()

    @torch.no_grad()
    def keep_in_range(self, *_: Any) -> None:
        """Clamps the scale to [0.1, 5]. A hook after a step of the optimizer may call it."""
        self.scale.clamp_(_LEAST, _MOST)

    @property
    def mask(self) -> Tensor:
        """(H,W) of 0 and 1: 1 where the prompt is. Where H minus the hole is odd, left and top get the smaller part."""
        canvas = self.program.shape[-1]
        hole = (self.image_size * self.scale.detach()).floor().clamp(max=canvas)
        position = torch.arange(canvas, device=hole.device) - ((canvas - hole) / 2).floor()
        inside = (position >= 0) & (position < hole)
        return 1 - (inside[:, None] & inside).to(self.program.dtype)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, self.padding)
        # The grid goes from -1 to 1. An output pixel at g shows the input at g / scale.
        grid = F.affine_grid(torch.eye(2, 3, device=x.device, dtype=x.dtype)[None], padded[:1].shape, False)
        grids = (grid / self.scale).expand(x.shape[0], -1, -1, -1)  # len(x) would fix the number of images of an export
        resampled = F.grid_sample(padded, grids, align_corners=False)
        return resampled + torch.sigmoid(self.program) * self.mask
