"""evaluate.py --calibration: the test images by confidence, before and after a temperature is fitted."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from algorithms.calibration import BINS, LogitStore, fit_temperature
from algorithms.pieces import Pieces
from algorithms.training import evaluate
from data.batches import Loader
from data.splits import Split, Splits
from errors import UserError
from tools.common.args import Parser
from tools.common.files import read_json
from tools.common.plots import reliability_figure, save


def add_calibration_flag(parser: Parser) -> None:
    fitted = "fit a temperature on the validation split; show accuracy by confidence, with --output as a picture too"
    parser.add_argument("--calibration", action="store_true", help=fitted)
    parser.checks.append(_check_output)


def _check_output(args: argparse.Namespace) -> None:
    if args.calibration and args.output and args.output.suffix == ".png":
        asked = f"--output {args.output}: a JSON file. The picture of --calibration lies beside it as {args.output}."
        raise UserError(asked, "Both have one name.", f"Type --output {args.output.with_suffix('.json')}")


def drawn_validation(args: argparse.Namespace, dataset: str) -> dict[str, Any]:
    """What drew the validation split of the checkpoint's run: the flags in args.json beside it, as `Dataset.read` takes
    them. {} if there is no such file, or if the run drew none: its data set may have one."""
    kept = read_json(args.checkpoint.parent / "args.json")
    if kept.get("dataset") != dataset or not kept.get("val_fraction"):
        return {}
    return {name: kept.get(name) for name in ("val_fraction", "val_shots", "seed")}


def validation_split(args: argparse.Namespace, splits: Splits, drawn: bool) -> tuple[Split | None, str]:
    """The images that a temperature may be fitted on; None and a sentence where there are none.

    Args:
        drawn: whether `drawn_validation` drew `splits.val` from the training images. It then has to be that of the run:
            of another one, some images may have been trained on.
    """
    if splits.val is None:
        return None, f"{splits.name} has no validation split."
    if drawn and read_json(args.checkpoint.parent / "args.json").get("data", {}).get("val") != splits.val.fingerprint:
        return None, "The training images have changed since the run, which drew its validation split from them."
    return splits.val, ""


class Fit(NamedTuple):
    """A fitted temperature and the number of images that it was fitted on; or None, and why there is none."""

    temperature: float | None
    no_temperature: str = ""
    val_size: int = 0


def fit(model: nn.Module, loader: Loader, pieces: Pieces) -> Fit:
    """Fits a temperature to the validation images."""
    store = LogitStore()
    evaluate(model, loader, observe_targets=store, pieces=pieces, description="validation")
    temperature = fit_temperature(*store.take())
    return Fit(temperature, "" if temperature else "All validation images are right.", len(loader.labels))


def describe_calibration(found: dict[str, Any]) -> str:
    """Lines of text: the test images by confidence, and what the temperature changes."""
    lines = ["", "Accuracy by confidence:", f"{'confidence':14}{'images':>7}{'accuracy':>10}{'mean confidence':>17}"]
    for number, one in enumerate(found["bins"]):
        if one["images"]:
            ends = f"{number / BINS:.3f}-{(number + 1) / BINS:.3f}"
            lines.append(f"{ends:14}{one['images']:7}{one['accuracy']:10.4f}{one['confidence']:17.4f}")
    if found["temperature"] is None:
        return "\n".join([*lines, f"No temperature is fitted. {found['no_temperature']}"])
    fitted = f"Temperature {found['temperature']:.4f}, fitted on {found['val_size']} validation images."
    return "\n".join([*lines, f"{fitted} Expected calibration error with it: {found['ece']:.4f}"])


def draw(file: Path, result: dict[str, Any]) -> None:
    """The reliability diagram, before and after the temperature."""
    found = result["calibration"]
    panels = {f"as trained: ECE {result['ece']:.4f}": found["bins"]}
    if found["temperature"] is not None:
        panels[f"temperature {found['temperature']:.3f}: ECE {found['ece']:.4f}"] = found["bins_with_temperature"]
    print(f"Reliability diagram: {save(reliability_figure(panels), file)}")
