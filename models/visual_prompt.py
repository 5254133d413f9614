"""Visual prompts: the pixels that learn. Each turns images (B,3,h,w) into a network's input (B,3,H,W)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ExpansiveVisualPrompt(nn.Module):
    """The image in the middle of a larger canvas, learned pixels all around it (ILM-VP, CVPR 2023, Section 3).

    h(x) = pad(x) + sigmoid(program) * mask. Images in and out are in [0,1], before the network's normalisation; the
    program lives in logit space, so that zero is mid-grey. Where H - h is odd, left and top get the extra pixel.

    Args:
        image_size: side h = w of the images in pixels, at most `canvas_size`.
        canvas_size: side H = W of the network's input in pixels.
        inner_mask: (h,w) of 0 and 1, where inside the image the prompt is added too; default nowhere.

    State: `program` (3,H,W) float32, zero at the start; `mask` (3,H,W), 1 on the border and `inner_mask` inside. Both
    names and shapes are those of the original repository's checkpoints.
    """

    def __init__(self, image_size: int, canvas_size: int, inner_mask: Tensor | None = None):
        super().__init__()
        if not 0 < image_size <= canvas_size:
            raise ValueError(f"an image of {image_size} pixels does not fit a canvas of {canvas_size}")
        if inner_mask is None:
            inner_mask = torch.zeros(image_size, image_size)
        extra = canvas_size - image_size
        before, after = (extra + 1) // 2, extra // 2
        self.padding = (before, after, before, after)
        self.program = nn.Parameter(torch.zeros(3, canvas_size, canvas_size))
        self.register_buffer("mask", F.pad(inner_mask.float().expand(3, -1, -1), self.padding, value=1.0).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.padding) + torch.sigmoid(self.program) * self.mask
