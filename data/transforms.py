"""From a PIL image to pixels: a fixed part, done once for an image, and a random part, done on batches."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from errors import UserError


@dataclass(frozen=True)
class Transform:
    """Resize both sides to `size` (bilinear with antialiasing, no crop), then crop to `crop` pixels if given.

    With `random`, the crop's place is random and half of the images are flipped left to right; without it the crop is
    the centre's and nothing is flipped.
    """

    size: int
    crop: int | None = None
    random: bool = False

    def decode(self, image: Image.Image) -> np.ndarray:
        """The fixed part: (size,size,3) uint8; float32 in [0,1] for an image of mode F."""
        pixels = np.array(image.resize((self.size, self.size), Image.Resampling.BILINEAR))
        return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)

    def on_batch(self, images: Tensor) -> Tensor:
        """The rest: (B,3,size,size) -> (B,3,crop,crop); draws from torch's CPU generator."""
        crop, spare = self.crop or self.size, self.size - (self.crop or self.size)
        if not self.random:
            start = spare // 2
            return images[..., start : start + crop, start : start + crop] if spare else images
        corners = torch.randint(spare + 1, (len(images), 2)).tolist()
        images = torch.stack(
            [image[:, y : y + crop, x : x + crop] for image, (y, x) in zip(images, corners, strict=True)]
        )
        flip = (torch.rand(len(images)) < 0.5).to(images.device)
        return torch.where(flip[:, None, None, None], images.flip(3), images)


def restore_transform(setup: dict, default_size: int | None) -> Transform:
    """The evaluation transform that a checkpoint's `setup` names, or plain resizing where it names none.

    Raises:
        UserError: what it names is no transform.
    """
    fields = setup.get("transform", {"size": default_size})
    try:
        return Transform(int(fields["size"]), fields.get("crop") and int(fields["crop"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        asked = "The checkpoint's `transform` has a size, and may have a crop."
        raise UserError(asked, f"Found {fields!r}.", "Give another file.") from None
