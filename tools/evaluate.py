"""The accuracy of a saved prompt, head or network on the test split, or under a shift of the data.

    python tools/evaluate.py --checkpoint results/cnn/ilm_vp/RUN/best.pth
    python tools/evaluate.py --checkpoint FILE --dataset OTHER
    python tools/evaluate.py --checkpoint RUN/best.pth --corruptions CIFAR-10-C --output RUN/corruptions.json
    python tools/evaluate.py --checkpoint RUN/best.pth --attack pgd --eps 4/255 --output RUN/attack.json
    python tools/evaluate.py --checkpoint RUN/best.pth --calibration --output RUN/calibration.json
    python tools/evaluate.py --checkpoint FILE --network resnet18 --dataset flowers102

OTHER is a data set with the same class names, for example a folder of yours. --corruptions takes a folder of CIFAR-10-C
or CIFAR-100-C, whose labels count the classes in alphabetical order. --output saves the result. If you type the same
command again, it prints the saved result, as long as checkpoint, images, weights and precision are the same.
(results_table.py --metric corruptions reads files named corruptions.json.)
The last form is for a checkpoint of the original ILM-VP repository, which does not say what it belongs to.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor, nn
from torchvision.datasets.utils import calculate_md5

import cfg
from algorithms.attack import AttackedLoader
from algorithms.calibration import BINS, Reliability
from algorithms.pieces import Pieces
from algorithms.predictions import PredictionCounter
from algorithms.training import evaluate
from data.batches import Loader
from data.catalog import find_dataset
from data.corruptions import read_corruptions
from data.loaders import build_loader
from data.splits import Split, Splits
from data.transforms import restore_transforms
from errors import UserError
from models.networks import Execution
from models.restore import default_transforms, restore, weights_of
from tools.common.accuracy import class_table, per_class
from tools.common.args import Parser, add_checkpoint_flags, add_memory_flag
from tools.common.checkpoint import open_checkpoint
from tools.common.command import run_command
from tools.common.files import read_json, write_json
from tools.common.flag_types import positive_int
from tools.common.machine import environment
from tools.common.memory import pieces_for
from tools.common.precision import checkpoint_precision
from tools.evaluating.attacking import add_attack_flags, attack_settings, attacked_model, describe_attack
from tools.evaluating.calibrating import (
    Fit,
    add_calibration_flag,
    describe_calibration,
    draw,
    drawn_validation,
    fit,
    validation_split,
)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(__file__, __doc__)
    add_checkpoint_flags(parser)
    add_memory_flag(parser)
    parser.add_argument("--corruptions", type=Path, metavar="DIR", help="CORRUPTION.npy files of 5 severities each")
    add_attack_flags(parser)
    add_calibration_flag(parser)
    parser.add_argument("--batch-size", type=positive_int, default=128, help="images")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON; if it has this result, it is only printed")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict:
    args = parse(argv)
    checkpoint, setup = open_checkpoint(args)
    precision = checkpoint_precision(args, setup)
    kept = read_json(args.output) if args.output else {}
    if kept and not {"md5", "dataset"} <= kept.keys():
        raise UserError(f"--output {args.output}: an evaluation's file.", "It holds something else.", "Name another.")
    drawn = drawn_validation(args, setup["dataset"]) if args.calibration else {}
    splits = find_dataset(setup["dataset"]).read(**drawn)
    setup = {"image_size": splits.image_size, **setup}
    test = in_order_of(checkpoint, setup, splits)
    setup.setdefault("class_names", splits.class_names)
    corrupted = read_corruptions(args.corruptions, splits.num_classes) if args.corruptions else {}
    transforms = restore_transforms(setup, default_transforms)
    model = restore(checkpoint, setup, Execution(args.device, precision))
    images = {name: [each.fingerprint for each in severities] for name, severities in corrupted.items()}
    asked = {
        "md5": calculate_md5(args.checkpoint),
        "dataset": setup["dataset"],
        "network": setup["network"],
        "weights": weights_of(model),
        "precision": precision,
        "data": {"test": test.fingerprint, **images},
    }
    validation, without = validation_split(args, splits, bool(drawn)) if args.calibration else (None, "")
    asked |= {"validation": validation.fingerprint if validation else without} if args.calibration else {}
    asked |= {"attack": attack_settings(args)} if args.attack else {}
    if asked.items() <= kept.items():
        print(f"{args.output} is of this checkpoint and these images. Its result:", describe(kept), sep="\n")
        return kept
    check_nothing_is_lost(args, kept)
    attacked = attacked_model(args, model, splits.num_classes) if args.attack else None
    load, pieces = loading(args, transforms), pieces_for(args.memory, args.device)
    calibration = Fit(None, without) if args.calibration else None
    if validation:
        own = renumbered(validation, splits.class_names, setup)
        calibration = fit(model, load(own, label=f"{splits.name} val"), pieces)
    loader = load(test, label=f"{splits.name} test")
    result = on_test_images(model, loader, setup["class_names"], pieces, calibration)
    print(f"{setup['network']} on {setup['dataset']}, {args.checkpoint}: loss {result['loss']:.4f}")
    if attacked:
        settings = {name: asked["attack"][name] for name in ("eps", "steps", "seed")}
        adversarial = AttackedLoader(loader, attacked, pieces=pieces, **settings)
        found = evaluate(model, adversarial, pieces=pieces, description="attacked test")
        result |= {f"attack_{name}": value for name, value in found.items()}
    if corrupted:
        result |= on_corrupted_images(model, corrupted, load, setup, pieces)
    print(describe(asked | result))
    if args.output:
        write_json(args.output, asked | result | environment(args.device) | {"command": args.command})
        if args.calibration:
            draw(args.output.with_suffix(".png"), result)
    return result


def check_nothing_is_lost(args: argparse.Namespace, kept: dict) -> None:
    """Raises a UserError if --output holds what another command found and this one does not look for."""
    kinds = [kind for kind in ("attack", "calibration", "corruptions") if kind in kept]
    if lost := [f"--{kind}" for kind in kinds if not getattr(args, kind)]:
        asked = f"--output {args.output}: a file for the result of this command."
        found = f"It holds the result of {' and '.join(lost)}, which would be lost."
        raise UserError(asked, found, "Name another file, or delete this one.")


def loading(args: argparse.Namespace, transforms: Sequence[Callable]) -> Callable[..., Loader]:
    """`build_loader` for a split and its label, as the flags say."""
    return partial(
        build_loader,
        transforms=transforms,
        batch_size=args.batch_size,
        device=args.device,
        workers=args.workers,
        gpu_cache_fraction=args.gpu_cache_fraction,
        cache_folder=cfg.data_path / ".cache",
    )


def on_test_images(
    model: nn.Module, loader: Loader, names: Sequence[str], pieces: Pieces, calibration: Fit | None
) -> dict:
    """Accuracy, loss and calibration error; accuracy by class; with a `calibration`, the images by confidence."""
    confusion = PredictionCounter(len(names), len(names))  # (T,T): images of each class predicted as each class
    as_trained, scaled = Reliability(), Reliability(calibration.temperature or 1.0 if calibration else 1.0)

    def observe(logits: Tensor, labels: Tensor) -> None:
        for observer in (confusion, as_trained, *([scaled] if calibration else [])):
            observer(logits, labels)

    result = evaluate(model, loader, observe_targets=observe, pieces=pieces, description="test")
    result |= {"ece": as_trained.error, "test_size": len(loader.labels)}
    result |= {"per_class": per_class(confusion.take().counts, names)}
    if calibration:
        bins = {"bins": as_trained.bins, "bins_with_temperature": scaled.bins}
        result["calibration"] = calibration._asdict() | {"ece": scaled.error, **bins}
    return result


def on_corrupted_images(
    model: nn.Module, corrupted: dict[str, list[Split]], load: Callable[..., Loader], setup: dict, pieces: Pieces
) -> dict:
    """The accuracies by corruption and severity, and their mean."""
    alphabetical = sorted(setup["class_names"])
    accuracies: dict[str, list[float]] = {name: [] for name in corrupted}
    for name, severities in corrupted.items():
        for severity, split in enumerate(severities, start=1):
            loader = load(renumbered(split, alphabetical, setup), label=name)
            shifted = evaluate(model, loader, pieces=pieces, description=f"{name} {severity}")
            accuracies[name].append(shifted["acc"])
    print(f"The labels 0, 1, 2, ... of the corrupted images mean {', '.join(alphabetical)}.")
    return {"corruptions": accuracies, "corruptions_acc": float(np.mean(list(accuracies.values())))}


def describe(result: dict) -> str:
    right = round(result["acc"] * result["test_size"])
    lines = [f"Test accuracy {result['acc']:.4f} ({right} of {result['test_size']})"]
    if "ece" in result:  # files of earlier versions have none
        lines.append(f"Expected calibration error {result['ece']:.4f} ({BINS} bins)")
    lines += [class_table(result["per_class"])] if "per_class" in result else []
    lines += [describe_calibration(result["calibration"])] if "calibration" in result else []
    lines += [describe_attack(result)] if "attack_acc" in result else []
    lines += [table(result)] if "corruptions" in result else []
    return "\n".join(lines)


def table(result: dict) -> str:
    """The accuracies under corruption, one row a corruption and one column a severity, the means, and the clean one."""
    rows = {**result["corruptions"], "mean": np.mean(list(result["corruptions"].values()), axis=0)}
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{head:>8}" for head in ("1", "2", "3", "4", "5", "mean"))]
    lines += [f"{name:{width}}" + "".join(f"{a:8.4f}" for a in (*row, np.mean(row))) for name, row in rows.items()]
    return "\n".join(["", "Accuracy by corruption and severity:", *lines, f"{'clean':{width}}{result['acc']:48.4f}"])


def in_order_of(checkpoint: dict, setup: dict, splits: Splits) -> Split:
    """The test split with its labels in the order of the checkpoint's classes.

    Raises:
        UserError: the classes have other names than the checkpoint's or, if that names none, another number.
    """
    own, names = setup.get("class_names"), splits.class_names
    number = len(own) if own else len(checkpoint.get("mapping_sequence", names))
    if (own and set(own) != set(names)) or number != len(names):
        raise UserError(
            f"--dataset {setup['dataset']}: its classes should be those of the checkpoint.",
            f"The checkpoint has {number} ({', '.join(own[:5]) + ', ...' if own else 'unnamed'}),"
            f" the data set {len(names)} ({', '.join(names[:5])}, ...).",
            "Give the data set that the checkpoint was trained on, or one with the same class names.",
        )
    return renumbered(splits.test, names, {"class_names": names} | setup)


def renumbered(split: Split, names: Sequence[str], setup: dict) -> Split:
    """The split, with labels that count the checkpoint's classes instead of `names`."""
    positions = np.array([list(setup["class_names"]).index(name) for name in names])
    return replace(split, labels=positions[split.labels])


if __name__ == "__main__":
    run_command(main)
