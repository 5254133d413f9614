"""The most likely target classes of your own images, and with labels, how many of them are right.

    python tools/predict.py --checkpoint results/cnn/ilm_vp/RUN/best.pth cat.jpg dog.png
    python tools/predict.py --checkpoint FILE my_photos --output predictions.csv
    python tools/predict.py --checkpoint FILE my_photos --output predictions.csv --labels folders

Folders are searched to any depth. --labels folders: an image's class is the nearest folder above it that has a class's
name. --labels FILE: a CSV with the columns path (relative to the file) and class. The accuracy of each class is printed
then. With --output predictions.csv the worst mistakes are drawn as well: predictions.mistakes.png.

An image that cannot be read is named. The others are predicted, and the exit code is 1.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import os

import torch
from PIL import Image

from algorithms.training import progress
from data.batches import as_floats
from data.cache import looks_empty, tell_empty
from data.fetching import readable_batches
from data.image_file import quiet
from data.loose_images import find_images, read_labels
from data.sources import ImageFiles
from data.splits import Split, whole
from errors import RunError, printable
from tools.common.accuracy import class_table, per_class
from tools.common.args import Parser, add_checkpoint_flags
from tools.common.command import run_command
from tools.common.files import forget, write_whole
from tools.common.flag_types import new_file, positive_int, whole_number_in
from tools.common.plots import save, sheet_figure
from tools.common.predictions import Mistake, Predictions, write_csv
from tools.common.words import short
from tools.load import Loaded, load

TOP = 5
MOST_NAMED = 20  # images that cannot be read, in the message, if the CSV names them all


def main(argv: list[str] | None = None) -> dict[str, list[tuple[str, float]]]:
    parser = Parser(__file__, __doc__)
    add_checkpoint_flags(parser)
    parser.add_argument(
        "image", nargs="+", type=Path, metavar="FOLDER_OR_IMAGE", help="image files, or folders of them"
    )
    parser.add_argument("--output", type=new_file(".csv"), metavar="FILE", help="CSV, one line an image")
    parser.add_argument("--labels", metavar="folders|FILE", help="the images' true classes, for the accuracy")
    parser.add_argument("--mistakes", type=whole_number_in(1, 400), default=40, help="that are drawn; default 40")
    parser.add_argument("--batch-size", type=positive_int, default=32, help="images; default 32")
    args = parser.parse_args(argv)
    found = find_images(args.image)
    loaded = load(args)
    labels = read_labels(args.labels, found, loaded.class_names) if args.labels else None
    predictions = Predictions([str(file) for file in found], loaded.class_names, labels, TOP)
    images = whole(ImageFiles(Path(), predictions.files), [0] * len(found))
    predict(loaded, images, predictions, args)
    if args.output:
        write_whole(args.output, lambda file: write_csv(file, predictions))
        print(f"{args.output}: {len(predictions.by_position)} images")
    else:
        for file, best in predictions.named().items():
            print(printable(file), *(f"  {p:.3f}  {name}" for name, p in best), sep="\n")
    if labels:
        report_accuracy(predictions, images, args)
    if predictions.damaged:
        raise unreadable(predictions, args.output)
    return predictions.named()


@torch.no_grad()
def predict(loaded: Loaded, images: Split, predictions: Predictions, args: argparse.Namespace) -> None:
    """Adds what the model says of each batch to the predictions. Pixels are kept of some batches at a time."""
    how = {"batch_size": args.batch_size, "device": args.device, "workers": args.workers}
    batches, empty = readable_batches(images, loaded.transform.transforms, "your images", **how), []
    for positions, pixels, damaged in progress(batches, "predicting", -(-len(images) // args.batch_size)):
        predictions.damaged |= damaged
        if positions:
            looks = [looks_empty(image.permute(1, 2, 0).numpy()) for image in pixels]
            empty += [printable(images.name(at)) for at, is_empty in zip(positions, looks, strict=True) if is_empty]
            predictions.add(positions, loaded.model(as_floats(pixels, args.device)).softmax(1).cpu())
    tell_empty("your images", empty, len(images))


def report_accuracy(predictions: Predictions, images: Split, args: argparse.Namespace) -> None:
    """Prints the accuracy of all images with a label, and of each class; draws the worst mistakes beside --output."""
    confusion = predictions.confusion()
    right, count = int(confusion.trace()), int(confusion.sum())
    if not count:
        return print("No image with a label could be read.")
    print(f"Accuracy {right / count:.4f} ({right} of {count})")
    print(class_table(per_class(confusion, predictions.class_names)))
    if args.output:
        draw_mistakes(predictions.worst_mistakes(args.mistakes), count - right, images, args.output)


def draw_mistakes(worst: list[Mistake], count: int, images: Split, output: Path) -> None:
    """A sheet beside `output` of the worst of `count` mistakes. If there is none, an earlier sheet is deleted."""
    sheet = output.with_suffix(".mistakes.png")
    if not worst:
        return forget(sheet)
    pictures = [thumbnail(images, mistake.position) for mistake in worst]
    files = [printable(os.path.basename(images.name(mistake.position))) for mistake in worst]
    captions = [
        f"{short(file)}\ntrue {one.true_probability:.2f}: {short(one.true, 22)}"
        f"\npredicted {one.probability:.2f}: {short(one.predicted, 22)}"
        for file, one in zip(files, worst, strict=True)
    ]
    print(f"{save(sheet_figure(pictures, captions), sheet)}: the worst {len(worst)} of {count} mistakes")


def thumbnail(images: Split, position: int) -> Image.Image:
    with quiet():
        image = images.open(position)
    image.thumbnail((256, 256))
    return image


def unreadable(predictions: Predictions, output: Path | None) -> RunError:
    """The error that ends the command after all else is written."""
    lines = [f"  {predictions.files[position]}: {reason}" for position, reason in predictions.damaged.items()]
    more = [f"  ... and {len(lines) - MOST_NAMED} more, in {output}"] if output and len(lines) > MOST_NAMED else []
    found = [f"{len(lines)} of {len(predictions.files)} cannot be:", *(lines[:MOST_NAMED] if more else lines), *more]
    others = "The others are predicted. " if len(lines) < len(predictions.files) else ""
    return RunError(
        "Every image should be read.",
        "\n".join(found),
        f"{others}Replace these files or leave them out, then type the command again.",
    )


if __name__ == "__main__":
    run_command(main)
