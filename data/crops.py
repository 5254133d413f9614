"""Random crops and flips of cached pixels, a batch at once: torchvision's, to the bit and from the same draws."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from data.cache import RaggedPixels


@dataclass(frozen=True)
class CropAndFlip:
    """What a RandomCrop and a RandomHorizontalFlip do, or one of them.

    Args:
        side: (h,w) of the crop. None: the images have one size, and are not cropped.
        flip: the probability of a flip, in [0,1]. None draws nothing.
    """

    side: tuple[int, int] | None
    flip: float | None

    def draw(self, seeds: Sequence[int], sizes: Sequence[Sequence[int]]) -> list[tuple[int, int, bool]]:
        """Each image's top, left and whether it is flipped, as `transforms.vary` draws them from the image's seed.

        Args:
            sizes: (height, width) of each image.
        """
        generator, drawn = torch.Generator(), []
        for seed, size in zip(seeds, sizes, strict=True):
            generator.manual_seed(seed)
            free = [have - want for have, want in zip(size, self.side or size, strict=True)]
            top, left = (int(torch.randint(most + 1, (), generator=generator)) if most else 0 for most in free)
            drawn.append((top, left, self.flip is not None and bool(torch.rand(1, generator=generator) < self.flip)))
        return drawn


def crop_and_flip(transforms: Sequence[Callable], sizes: np.ndarray) -> CropAndFlip | None:
    """The same as transforms that run in every epoch; None if they do something else, or if a crop does not fit.

    Args:
        sizes: (N,2), heights and widths of all images.
    """
    kinds, crop = [type(each) for each in transforms], transforms[0]
    if kinds not in ([v2.RandomCrop], [v2.RandomHorizontalFlip], [v2.RandomCrop, v2.RandomHorizontalFlip]):
        return None
    flip = transforms[-1].p if kinds[-1] is v2.RandomHorizontalFlip else None
    if kinds[0] is v2.RandomHorizontalFlip:
        return CropAndFlip(None, flip) if (sizes == sizes[0]).all() else None
    fits = crop.padding is None and not crop.pad_if_needed and (sizes >= crop.size).all()
    return CropAndFlip(tuple(crop.size), flip) if fits else None


class FlatPixels:
    """Images of any sizes as one tensor, in the memory of a device.

    Args:
        pixels: (N,h,w,3) or (N,h,w), or RaggedPixels.
        place: an array -> the tensor.

    Attributes:
        sizes: (N,2) int64, heights and widths.
    """

    def __init__(self, pixels: np.ndarray | RaggedPixels, place: Callable[[np.ndarray], Tensor]):
        if isinstance(pixels, RaggedPixels):
            flat, sizes = pixels.flat.reshape(-1, 3), pixels.sizes
        else:
            flat, sizes = pixels.reshape(-1, *pixels.shape[3:]), np.broadcast_to(pixels.shape[1:3], (len(pixels), 2))
        self.flat, self.sizes = place(flat), sizes
        self._first = np.concatenate([[0], sizes.prod(1).cumsum()[:-1]])

    def cut(self, positions: Tensor, seeds: Tensor, how: CropAndFlip) -> Tensor:
        """(B,h,w,3) or (B,h,w) on the pixels' device: the images at these `positions`, varied by their `seeds`."""
        sizes, first = self.sizes[positions.numpy()], self._first[positions.numpy()]
        drawn = how.draw(seeds.tolist(), sizes.tolist())
        side = how.side or tuple(self.sizes[0].tolist())
        if not self.flat.is_cuda and len(positions):
            images = zip(first.tolist(), sizes.tolist(), drawn, strict=True)
            return torch.stack([self._slice(*image, side) for image in images])
        return self._gather(first, sizes[:, 1], np.array(drawn, np.int64).reshape(-1, 3), side)

    def _slice(self, first: int, size: list[int], drawn: tuple[int, int, bool], side: tuple[int, int]) -> Tensor:
        """One image. This is the faster way on a CPU."""
        (height, width), (top, left, flipped) = size, drawn
        image = self.flat[first : first + height * width].unflatten(0, (height, width))
        image = image[top : top + side[0], left : left + side[1]]
        return image.flip(1) if flipped else image

    def _gather(self, first: np.ndarray, width: np.ndarray, drawn: np.ndarray, side: tuple[int, int]) -> Tensor:
        """All images by one index."""
        top, left, flipped = drawn.T
        corner = first + top * width + left + flipped * (side[1] - 1)  # where the first column is read
        sent = torch.from_numpy(np.stack([corner, width, 1 - 2 * flipped]))
        sent = (sent.pin_memory() if self.flat.is_cuda else sent).to(self.flat.device, non_blocking=True)
        corner, below, beside = sent[..., None, None]
        rows = torch.arange(side[0], device=self.flat.device)[:, None]
        return self.flat[corner + below * rows + beside * torch.arange(side[1], device=self.flat.device)]
