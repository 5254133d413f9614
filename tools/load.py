"""A checkpoint's model, for your own Python code.

    from tools.load import load_prompted

    model, transform, class_names = load_prompted("best.pth")
    probabilities = model(transform("cat.jpg")[None]).softmax(1)

Python has to find the repository: start it there, or put its folder on `sys.path`.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from data.catalog import find_dataset
from data.image_file import open_rgb, quiet, to_rgb, upright
from data.transforms import decode, restore_transforms
from errors import UserError
from models.networks import Execution
from models.restore import default_transforms, restore
from tools.common.args import Parser, add_checkpoint_flags
from tools.common.checkpoint import open_checkpoint
from tools.common.precision import checkpoint_precision


class ImageTransform:
    """What evaluation does to an image: an image of PIL, or the path of an image file -> (3,h,w) float32 in [0,1].

    Either is turned upright, as its EXIF orientation says.

    Args:
        transforms: torchvision's v2 transforms, none of them random.
    """

    def __init__(self, transforms: Sequence[Callable]):
        self.transforms = transforms

    def __call__(self, image: Image.Image | str | Path) -> Tensor:
        with quiet():
            image = upright(to_rgb(image), image) if isinstance(image, Image.Image) else open_rgb(Path(image))
        return torch.from_numpy(decode(self.transforms, image)).permute(2, 0, 1).float().div(255)


class Loaded(NamedTuple):
    model: nn.Module
    transform: ImageTransform
    class_names: tuple[str, ...]


def load_prompted(checkpoint: str | Path, **flags: object) -> Loaded:
    """What a `best.pth` or `ckpt.pth` of any method holds.

    Args:
        flags: those of tools/predict.py by name, for example `device="cuda"`, `precision="bfloat16"`, or
            `network="resnet18", dataset="flowers102"` for a checkpoint that does not name them.

    Returns:
        `model`, in eval mode: images (B,3,h,w) float32 in [0,1], on its device -> target logits (B,T) float32.
        `transform`: an image of PIL, or a path -> (3,h,w) float32 in [0,1], on the CPU.
        `class_names`: T names.

    Raises:
        UserError: the file is no checkpoint, or a flag is wrong, or the network's weights are not there.
    """
    parser = _Keywords(__file__, "")
    add_checkpoint_flags(parser)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    return load(parser.parse_args([f"--checkpoint={checkpoint}", *words]))


class _Keywords(Parser):
    """Flags that were given as a function's arguments."""

    def error(self, message: str):
        raise UserError(f"load_prompted: {message}.", "Nothing has been loaded.", "Correct this argument.")


def load(args: argparse.Namespace, **execution: object) -> Loaded:
    """`load_prompted` for the flags of `add_checkpoint_flags`; `execution` as `models.networks.Execution` takes it."""
    checkpoint, setup = open_checkpoint(args)
    if "class_names" not in setup:  # an original repository's checkpoint: only the data set knows the class names
        dataset = find_dataset(setup["dataset"]).read()
        setup |= {"class_names": dataset.class_names, "image_size": dataset.image_size}
    transform = ImageTransform(restore_transforms(setup, default_transforms))
    how = {"cuda_graph": False} | execution  # batches of any size may come
    run = Execution(args.device, checkpoint_precision(args, setup), **how)
    return Loaded(restore(checkpoint, setup, run), transform, tuple(setup["class_names"]))
