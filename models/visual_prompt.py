"""Visual prompts: the pixels that learn. Each turns images (B,3,h,w) into a network's input (B,3,H,W).

A prompt with `constant_border = True` promises that h(x) = pad(x) + c. Its `padding` is the argument of `F.pad`, and c
is the same for all images. `shared_border.py` may then compute its border once a batch. One with `graphable = True`
promises to do the same work on the images' device for every batch of a shape: it draws no random number on the CPU, and
reads no value back. `graphed.py` may then record it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import UserError
from models.part import Part


class ExpansiveVisualPrompt(Part):
    """The image in the middle of a larger canvas, learned pixels all around it (ILM-VP, CVPR 2023, Section 3).

    h(x) = pad(x) + sigmoid(program) * mask. Images in and out are in [0,1], before the network's normalisation; the
    program lives in logit space, so that zero is mid-grey. Where H - h is odd, left and top get the extra pixel.

    Args:
        image_size: side h = w of the images in pixels, at most `canvas_size`.
        canvas_size: side H = W of the network's input in pixels.
        inner_mask: (h,w) of 0 and 1: 1 where the prompt is added inside the image too; default nowhere.

    State: `program` (3,H,W) float32, zero at the start; `mask` (3,H,W), 1 on the border and `inner_mask` inside. Both
    names and shapes are those of the original repository's checkpoints.
    """

    constant_border = graphable = True

    def __init__(self, image_size: int, canvas_size: int, inner_mask: Tensor | None = None):
        super().__init__()
        self.padding = padding(image_size, canvas_size)
        if inner_mask is None:
            inner_mask = torch.zeros(image_size, image_size)
        self.program = nn.Parameter(torch.zeros(3, canvas_size, canvas_size))
        self.register_buffer("mask", F.pad(inner_mask.float().expand(3, -1, -1), self.padding, value=1.0).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.padding) + torch.sigmoid(self.program) * self.mask


class AdditiveVisualPrompt(Part):
    """Learned pixels added to the image: in a frame (ILM-VP, CVPR 2023, its CLIP section), or in another region.

    h(x) = x + unit * program * mask. Images in and out are in [0,1]; the program counts in `unit`s. If `unit` is the
    standard deviation of the network's normalisation, the program lives in the network's normalised space, as in ILM-VP
    and VP (Bahng et al. 2022) for CLIP.

    Args:
        mask: (H,W) of 0 and 1: 1 where the prompt is. `frame` and `corner` make such masks.
        unit: (3,), what a 1 in the program adds to a pixel, by channel.

    State: `program` (3,H,W) float32, zero at the start, and `mask` (3,H,W): the original repository's names and shapes.
    """

    graphable = True

    def __init__(self, mask: Tensor, unit: Tensor):
        super().__init__()
        self.program = nn.Parameter(torch.zeros(3, *mask.shape))
        self.register_buffer("mask", mask.float().expand(3, -1, -1).contiguous())
        self.register_buffer("unit", unit.detach().clone().view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.unit * self.program * self.mask


class NoVisualPrompt(Part):
    """The image as it is."""

    graphable = True

    def forward(self, x: Tensor) -> Tensor:
        return x


class RandomPatchVisualPrompt(Part):
    """A learned square at a random position (VP, Bahng et al. 2022, "random patch"), in training and in evaluation.

    A position is drawn for every image, from torch's CPU generator. The original draws one for a whole batch, so its
    accuracy depends on the batches. Space and `unit` are those of `AdditiveVisualPrompt`.

    Args:
        patch_size: side of the square in pixels.
        canvas_size: side H = W of the images in pixels.

    State: `program` (3,patch_size,patch_size) float32, zero at the start.
    """

    def __init__(self, patch_size: int, canvas_size: int, unit: Tensor):
        super().__init__()
        self.positions = canvas_size - patch_size + 1
        self.program = nn.Parameter(torch.zeros(3, patch_size, patch_size))
        self.register_buffer("unit", unit.detach().clone().view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        side, width = self.program.shape[-1], x.shape[3]
        corners = torch.randint(self.positions, (len(x), 2)).to(x.device, non_blocking=True)
        top, left = corners.T[..., None, None]  # (B,1,1) each
        steps = torch.arange(side, device=x.device)
        pixels = ((top + steps[:, None]) * width + left + steps).view(len(x), 1, -1)  # where each goes
        patch = (self.unit * self.program).flatten(1).expand(len(x), -1, -1)
        # The gradient of `scatter` is read at these places. That of indexing is added up, one pixel after another.
        canvas = patch.new_zeros(x.shape).flatten(2).scatter(2, pixels.expand_as(patch), patch)
        return x + canvas.view_as(x)


class PaddedVisualPrompt(Part):
    """The image, smaller than the input, in the middle of a canvas with a learned frame (EVP, TMLR 2024, Section 3).

    h(x) = pad(x) + program. Images in and out are in [0,1], the program is in the same space: no sigmoid, no clamp.
    The formula has no mask on purpose: EVP's update needs the gradient over the whole canvas. The program stays zero
    outside of the frame because `NormalizedGradient` changes only the pixels in the mask. Where H - h is odd, left and
    top get the extra pixel. An image as large as the canvas gets the frame on top of it (EVP's ablation).

    Args:
        image_size: side h = w of the images in pixels, at most that of the canvas.
        mask: (H,W) of 0 and 1: 1 where the prompt may change. `frame` makes it.

    State: `program` (3,H,W) float32, zero at the start; `mask` (3,H,W).
    """

    constant_border = graphable = True

    def __init__(self, image_size: int, mask: Tensor):
        super().__init__()
        self.padding = padding(image_size, mask.shape[-1])
        self.program = nn.Parameter(torch.zeros(3, *mask.shape))
        self.register_buffer("mask", mask.float().expand(3, -1, -1).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.padding) + self.program


class LowRankVisualPrompt(Part):
    """Learned pixels all over the image, of low rank in each channel (LoR-VP, Jin et al., ICLR 2025).

    h(x) = x + left @ right. Images in and out are in [0,1], the program is in the same space: no sigmoid, no clamp.

    Args:
        canvas_size: side H = W of the images in pixels.
        rank: r, columns of `left` and rows of `right`.

    State: `left` (3,H,r) float32, zero at the start, and `right` (3,r,W), drawn from a normal distribution of standard
    deviation 0.01. So the program is zero at the start, and the first gradient of `right` is zero.
    """

    graphable = True

    def __init__(self, canvas_size: int, rank: int):
        super().__init__()
        self.left = nn.Parameter(torch.zeros(3, canvas_size, rank))
        self.right = nn.Parameter(torch.empty(3, rank, canvas_size).normal_(std=0.01))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.left @ self.right


def frame(canvas_size: int, width: int) -> Tensor:
    """(H,W) of 0 and 1: 1 in a frame of `width` pixels inside the canvas's edges."""
    mask = torch.ones(canvas_size, canvas_size)
    mask[width : canvas_size - width, width : canvas_size - width] = 0
    return mask


def corner(canvas_size: int, size: int) -> Tensor:
    """(H,W) of 0 and 1: 1 in a square of `size` pixels at the top left (VP's fixed patch)."""
    rest = canvas_size - size
    return F.pad(torch.ones(size, size), (0, rest, 0, rest))


def padding(image_size: int, canvas_size: int) -> tuple[int, int, int, int]:
    """What `F.pad` needs to put an image into the middle of a canvas; an odd remainder goes left and above.

    Raises:
        UserError: the image is larger than the canvas.
    """
    if not 0 < image_size <= canvas_size:
        raise UserError(
            "The image has to fit into the network's input.",
            f"The images are {image_size} pixels wide, the input {canvas_size}.",
            "Choose a network with a larger input, for example --network resnet18 (224).",
        )
    extra = canvas_size - image_size
    before, after = (extra + 1) // 2, extra // 2
    return before, after, before, after


def scaled(pixels: int, canvas_size: int) -> int:
    """Converts a length for an input of 224 pixels, as in papers and flags, to one of `canvas_size`; at least 1."""
    return max(1, round(pixels * canvas_size / 224))


def evp_sizes(
    canvas_size: int, prompt_size: int = 30, image_size: int | None = None, on_top: bool = False
) -> tuple[int, int]:
    """The side of EVP's image and the width of its frame, in pixels of a network's input of `canvas_size`.

    Args:
        prompt_size: width of the frame, in pixels of an input of 224.
        image_size: side of the image, in pixels of an input of 224. None: the image fills what the frame leaves, or the
            whole canvas if the frame lies `on_top` of the image.

    Raises:
        UserError: no pixel is left for the image.
    """
    width = scaled(prompt_size, canvas_size)
    if image_size:
        margin, odd = divmod(224 - image_size, 2)
        size = canvas_size - 2 * round(margin * canvas_size / 224) - odd
    else:
        size = canvas_size if on_top else canvas_size - 2 * width
    if size < 1:
        raise UserError(
            f"--prompt-size {prompt_size} --image-size {image_size}: these sizes are for an input of 224 pixels.",
            f"Scaled to this model's input of {canvas_size}, they leave no pixel for the image.",
            "Choose a smaller --prompt-size or a larger --image-size.",
        )
    return size, width
