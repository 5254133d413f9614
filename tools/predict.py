"""The five most likely target classes of your own images.

python tools/predict.py --checkpoint results/cnn/ilm_vp/RUN/best.pth cat.jpg dog.png
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from data.catalog import find_dataset
from data.loaders import build_loader
from data.splits import ImageFiles, whole
from data.transforms import restore_transforms
from models.networks import Execution
from models.restore import default_transforms, restore
from tools.common.args import Parser, add_checkpoint_flags, resolve_precision
from tools.common.checkpoint import open_checkpoint
from tools.common.command import run_command

TOP = 5


@torch.no_grad()
def main(argv: list[str] | None = None) -> dict[str, list[tuple[str, float]]]:
    parser = Parser(__file__, __doc__)
    add_checkpoint_flags(parser)
    parser.add_argument("image", nargs="+", metavar="IMAGE", help="image files")
    args = parser.parse_args(argv)
    precision = resolve_precision(args.precision, args.device)
    checkpoint, setup = open_checkpoint(args)
    if "class_names" not in setup:  # an original repository's checkpoint: only the data set knows the class names
        dataset = find_dataset(setup["dataset"]).read()
        setup |= {"class_names": dataset.class_names, "image_size": dataset.image_size}
    class_names = setup["class_names"]
    transforms = restore_transforms(setup, default_transforms)
    model = restore(checkpoint, setup, Execution(args.device, precision))
    images = whole(ImageFiles(Path(), args.image), np.zeros(len(args.image)))
    how = {"batch_size": 32, "device": args.device, "workers": 0, "cache_folder": None}
    loader = build_loader(images, transforms, "your images", **how)
    probabilities = torch.cat([model(batch).softmax(1).cpu() for batch, _ in loader])
    found = {}
    for file, row in zip(args.image, probabilities, strict=True):
        best = row.sort(descending=True, stable=True)  # stable: equals keep arg-max's order
        found[file] = [
            (class_names[label], p)
            for label, p in zip(best.indices[:TOP].tolist(), best.values[:TOP].tolist(), strict=True)
        ]
        print(file, *(f"  {p:.3f}  {name}" for name, p in found[file]), sep="\n")
    return found


if __name__ == "__main__":
    run_command(main)
