"""A prompt that moves, resizes and recolours the image, and fills what it leaves free (ACAVP)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.part import Part

SCALE, GAIN = 0.73, 6.0  # the scale at the start, and the largest gain
_ANGLE, _SHEAR, _TRANSLATION = 0.1, 0.1, 0.05  # radians, radians, fraction of the canvas: the largest of each


class AffineColourVisualPrompt(Part):
    """h(x) = gain * affine(x) + program * mask (ACAVP, NeurIPS 2025, arXiv 2510.07823).

    The affine map scales, shears, rotates and moves the image about its top left pixel, bilinearly, on black. `gain`
    multiplies each pixel and channel of the result. `mask` is 1 where the affine map of an image of ones is 0. So it
    depends on the parameters alone, not on the images of a batch, and has no gradient. At the start the image is shrunk
    to 73 %, and the free region is at its right and below it. Images in and out are in [0,1]: no clamp.

    Args:
        canvas_size: side H = W of the images in pixels.

    State, all float32: `program` (3,H,W), in the space of the images, zero at the start. The others are unbounded
    numbers behind what bounds the value: `translation` (2,), x and y, up to 5 % of the canvas; `angle` (1,) and `shear`
    (2,), up to 0.1 rad; `scale` (2,), x and y, from one pixel of the canvas to 1; `colour` (3,H,W), a gain in (0,6),
    which is 1 at the start.
    """

    graphable = True

    def __init__(self, canvas_size: int):
        super().__init__()
        self.program = nn.Parameter(torch.zeros(3, canvas_size, canvas_size))
        self.translation = nn.Parameter(torch.zeros(2))
        self.angle = nn.Parameter(torch.zeros(1))
        self.scale = nn.Parameter(torch.full((2,), _logit(SCALE)))
        self.shear = nn.Parameter(torch.zeros(2))
        self.colour = nn.Parameter(torch.full((3, canvas_size, canvas_size), _logit(1 / GAIN)))

    def moving(self) -> list[nn.Parameter]:
        """The parameters of the affine map and of the gain: all but the program."""
        return [self.translation, self.angle, self.scale, self.shear, self.colour]

    @property
    def gain(self) -> Tensor:
        """(3,H,W), above 0 and below 6."""
        return GAIN * torch.sigmoid(self.colour)

    @property
    def grid(self) -> Tensor:
        """(1,H,W,2): where in the image each pixel of the canvas comes from, see `affine_grid`."""
        canvas = self.program.shape[-1]
        translation = _TRANSLATION * canvas * torch.tanh(self.translation)
        angle, shear = _ANGLE * torch.tanh(self.angle), _SHEAR * torch.tanh(self.shear)
        scale = torch.sigmoid(self.scale).clamp(min=1 / canvas)  # at 0 the map would have no inverse
        return affine_grid(canvas, translation, angle, scale, shear)

    @property
    def mask(self) -> Tensor:
        """(H,W) of 0 and 1: 1 where the prompt is."""
        return _free(self.grid)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.grid
        grids = grid.to(x.dtype).expand(x.shape[0], -1, -1, -1)  # len(x) would fix the number of images of an export
        placed = F.grid_sample(x, grids, align_corners=True)
        return self.gain * placed + self.program * _free(grid)


def affine_grid(canvas_size: int, translation: Tensor, angle: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """The grid of an affine map, for `F.grid_sample` with `align_corners=True`.

    The map sends the pixel (x,y) of the image to R diag(scale) K (x,y) + translation, with R = [[cos, sin], [-sin,
    cos]] and K = [[1, -tan shear_x], [-tan shear_y, 1 + tan shear_x tan shear_y]]. Pixel (0,0) is the top left one.

    Args:
        canvas_size: side H = W in pixels.
        translation: (2,), x and y in pixels.
        angle: (1,), in radians.
        scale: (2,), of x and y, above 0.
        shear: (2,), of x and y, in radians.

    Returns:
        (1,H,W,2): for each pixel of the canvas x and y in the image, from -1 to 1: the inverse of the map.
    """
    cos, sin, (tan_x, tan_y) = torch.cos(angle[0]), torch.sin(angle[0]), torch.tan(shear)
    back = torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])])  # R is orthogonal, and det K = 1
    unshear = torch.stack([torch.stack([1 + tan_x * tan_y, tan_x]), torch.stack([tan_y, torch.ones_like(tan_x)])])
    inverse = unshear @ (back / scale[:, None])
    side = torch.arange(canvas_size, device=scale.device, dtype=scale.dtype)
    pixels = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1)  # (H,W,2)
    source = (pixels - translation) @ inverse.T
    return (2 / (canvas_size - 1) * source - 1)[None]


@torch.no_grad()
def _free(grid: Tensor) -> Tensor:
    """(H,W) of 0 and 1: 1 where the map of an image of ones is 0."""
    ones = torch.ones(1, 1, *grid.shape[1:3], device=grid.device, dtype=grid.dtype)
    return (F.grid_sample(ones, grid, align_corners=True)[0, 0] == 0).to(grid.dtype)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
