"""From a PIL image to pixels: a fixed part, done once for an image, and a random part, done in every epoch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from errors import UserError


@dataclass(frozen=True)
class Transform:
    """Resize with antialiasing, then crop a square; with `random`, half of the images are flipped left to right, too.

    Args:
        size: pixels that the resized side or sides get.
        crop: side of the square that is cut out; None: `size`, which is no crop where both sides are resized.
        random: the crop's place is random, each place as likely as any other; else it is the centre's, without flips.
        shorter: resize the shorter side and keep the aspect ratio; else resize both sides to `size`.
        bicubic: bicubic in place of bilinear.

    Raises:
        ValueError: a value of another type, or a crop that is larger than the resized image may be.
    """

    size: int
    crop: int | None = None
    random: bool = False
    shorter: bool = False
    bicubic: bool = False

    def __post_init__(self):
        numbers = type(self.size) is type(self.side) is int
        switches = all(type(switch) is bool for switch in (self.random, self.shorter, self.bicubic))
        if not (numbers and switches and 0 < self.side <= self.size):
            raise ValueError(f"{self} is no transform")

    @property
    def side(self) -> int:
        """Side in pixels of the square images that come out."""
        return self.size if self.crop is None else self.crop

    @property
    def decoded_side(self) -> int | None:
        """Side of the squares that `decode` gives; None: their shorter side is `size`, the longer one varies."""
        if self.random:
            return None if self.shorter else self.size
        return self.side

    def decode(self, image: Image.Image) -> np.ndarray:
        """The fixed part: all but the random crop and flip.

        Args:
            image: mode RGB, or F with values in [0,1].

        Returns:
            (h,w,3) uint8, or float32 in [0,1] for mode F; h = w = `decoded_side` unless that is None.

        Raises:
            ValueError: the image is so narrow that it would have gigapixels when its shorter side is `size`.
        """
        if self.shorter and self.size**2 * max(image.size) > min(image.size) * Image.MAX_IMAGE_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are too narrow")
        mode = InterpolationMode.BICUBIC if self.bicubic else InterpolationMode.BILINEAR
        image = F.resize(image, self.size if self.shorter else [self.size, self.size], mode)
        pixels = np.array(image if self.random else F.center_crop(image, self.side))
        if image.mode == "F":  # bicubic overshoots; PIL clips integers by itself
            return np.repeat(pixels.clip(0, 1)[..., None], 3, axis=2)
        return pixels

    def cut(self, pixels: np.ndarray, place: Sequence[float]) -> np.ndarray:
        """The random crop of one image: (h,w,...) -> (side,side,...), a view.

        Args:
            place: uniform draws (y,x) in [0,1) of double precision: those of single precision could round up to 1.
        """
        y, x = (int(at * (length - self.side + 1)) for at, length in zip(place, pixels.shape[:2], strict=True))
        return pixels[y : y + self.side, x : x + self.side]

    def on_batch(self, images: Tensor, batch_size: int, share: slice) -> Tensor:
        """The random flips of images (b,3,side,side), a share of a batch; draws for all from torch's CPU generator."""
        if not self.random:
            return images
        flip = (torch.rand(batch_size) < 0.5)[share].to(images.device, non_blocking=True)
        return torch.where(flip[:, None, None, None], images.flip(3), images)


def restore_transform(setup: dict, default_size: int | None) -> Transform:
    """The evaluation transform that a checkpoint's `setup` names, or plain resizing where it names none.

    Raises:
        UserError: what it names is no transform.
    """
    fields = setup.get("transform", {"size": default_size})
    try:
        return replace(Transform(**fields), random=False)
    except (TypeError, ValueError):
        asked = "The checkpoint's `transform` has a size, and may have a crop, `random`, `shorter` and `bicubic`."
        raise UserError(asked, f"Found {fields!r}.", "Give another file.") from None
