"""Draws what a saved prompt does: the image, the prompt, the network's input, and the prediction with its source class.

    python tools/picture.py --checkpoint results/cnn/ilm_vp/RUN/best.pth --output picture.png

The images are evenly spaced in the test split. None is chosen for its prediction.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from matplotlib.figure import Figure
from torch import Tensor

from data.catalog import find_dataset
from data.loaders import build_loader
from data.transforms import restore_transforms
from errors import UserError
from models.networks import Execution
from models.prompted import Prompted
from models.restore import default_transforms, restore
from tools.common.args import Parser, add_checkpoint_flags
from tools.common.checkpoint import open_checkpoint
from tools.common.command import run_command
from tools.common.files import write_whole
from tools.common.flag_types import positive_int
from tools.common.precision import checkpoint_precision
from tools.common.words import short


def main(argv: list[str] | None = None) -> Path:
    parser = Parser(__file__, __doc__)
    add_checkpoint_flags(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="PNG, PDF or SVG")
    parser.add_argument("--images", type=positive_int, default=3, help="rows of the picture; default 3")
    parser.add_argument("--dpi", type=positive_int, default=100, help="pixels an inch; 9 inches wide; default 100")
    args = parser.parse_args(argv)
    if args.output.suffix.lower() not in (".png", ".pdf", ".svg"):
        asked = f"--output {args.output}: a file name that ends with .png, .pdf or .svg is needed."
        raise UserError(asked, f"The ending is '{args.output.suffix}'.", "Type for example: --output picture.png")
    checkpoint, setup = open_checkpoint(args)
    dataset = find_dataset(setup["dataset"]).read()
    setup = {"image_size": dataset.image_size, "class_names": dataset.class_names, **setup}
    transforms = restore_transforms(setup, default_transforms)
    model = restore(checkpoint, setup, Execution(args.device, checkpoint_precision(args, setup)))
    if not isinstance(model, Prompted):
        raise UserError(f"{args.checkpoint}: a prompt is needed.", "This method learns none.", "Give another file.")
    positions = torch.linspace(0, len(dataset.test) - 1, args.images).long().numpy()
    how = {"batch_size": args.images, "device": args.device, "workers": 0, "cache_folder": None}
    loader = build_loader(dataset.test.take(positions), transforms, "test", **how)
    images, labels = next(iter(loader))
    names = [dataset.class_names[label] for label in labels.tolist()]
    figure = draw(model, images, names, list(setup["class_names"]))
    write_whole(args.output, lambda file: figure.savefig(file, dpi=args.dpi))
    print(args.output)
    return args.output


@torch.no_grad()
def draw(model: Prompted, images: Tensor, names: list[str], class_names: list[str]) -> Figure:
    """One row an image: the image (3,h,w), h(0), h(x), and in words the top source class and the predicted target."""
    seen, prompt = model.seen(images).cpu(), model.seen(torch.zeros_like(images[:1])).cpu()[0]
    logits, source = (each.cpu() for each in model(images, with_source=True))
    top, predicted = source.argmax(1).tolist(), logits.argmax(1).tolist()
    strongest = model.mapping.sources[:, 0].tolist()  # (T,)
    figure = Figure(figsize=(9, 2 * len(images) + 0.2), layout="constrained")
    grid = figure.subplots(len(images), 4, squeeze=False, width_ratios=(1, 1, 1, 1.5))
    titles = ("image", "prompt", "what the network sees", "what it predicts")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=10)
    for i, row in enumerate(grid):
        for axes, picture in zip(row, (images[i].cpu(), prompt, seen[i]), strict=False):
            axes.imshow(picture.clamp(0, 1).permute(1, 2, 0).numpy())
        for axes in row:
            axes.set_axis_off()
        lines = (
            f"true target: {short(names[i])}",
            f"top source class: {short(model.network.class_names[top[i]])}",
            f"predicted target: {short(class_names[predicted[i]])}",
            f"(mapped from: {short(model.network.class_names[strongest[predicted[i]]])})",
        )
        row[3].set_box_aspect(1 / 1.5)  # as high as the pictures
        row[3].text(0, 0.5, "\n\n".join(lines), va="center", fontsize=9, parse_math=False)
    return figure


if __name__ == "__main__":
    run_command(main)
