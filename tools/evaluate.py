"""The accuracy of a saved prompt, head or network on the test split, or under a shift of the data.

    python tools/evaluate.py --checkpoint results/cnn/ilm_vp/RUN/best.pth
    python tools/evaluate.py --checkpoint FILE --dataset OTHER
    python tools/evaluate.py --checkpoint RUN/best.pth --corruptions CIFAR-10-C --output RUN/corruptions.json
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

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torchvision.datasets.utils import calculate_md5

import cfg
from algorithms.predictions import PredictionCounter
from algorithms.training import evaluate
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


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(__file__, __doc__)
    add_checkpoint_flags(parser)
    add_memory_flag(parser)
    parser.add_argument("--corruptions", type=Path, metavar="DIR", help="CORRUPTION.npy files of 5 severities each")
    parser.add_argument("--batch-size", type=positive_int, default=128, help="images")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON; if it has this result, it is only printed")
    args = parser.parse_args(argv)
    checkpoint, setup = open_checkpoint(args)
    precision = checkpoint_precision(args, setup)
    kept = read_json(args.output) if args.output else {}
    if kept and not {"md5", "dataset"} <= kept.keys():
        raise UserError(f"--output {args.output}: an evaluation's file.", "It holds something else.", "Name another.")
    splits = find_dataset(setup["dataset"]).read()
    setup = {"image_size": splits.image_size, **setup}
    test = in_order_of(checkpoint, setup, splits)
    setup.setdefault("class_names", splits.class_names)
    alphabetical = sorted(setup["class_names"])
    corrupted = read_corruptions(args.corruptions, len(alphabetical)) if args.corruptions else {}
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
    if asked.items() <= kept.items():
        print(f"{args.output} is of this checkpoint and these images. Its result:", describe(kept), sep="\n")
        return kept
    cached = {
        "batch_size": args.batch_size,
        "device": args.device,
        "workers": args.workers,
        "gpu_cache_fraction": args.gpu_cache_fraction,
        "cache_folder": cfg.data_path / ".cache",
    }

    names = setup["class_names"]
    pieces = pieces_for(args.memory, args.device)
    confusion = PredictionCounter(len(names), len(names))  # (T,T): images of each class predicted as each class
    loader = build_loader(test, transforms, f"{splits.name} test", **cached)
    result = evaluate(model, loader, observe_targets=confusion, pieces=pieces, description="test")
    result |= {"test_size": len(test), "per_class": per_class(confusion.take().counts, names)}
    print(f"{setup['network']} on {setup['dataset']}, {args.checkpoint}: loss {result['loss']:.4f}")
    if corrupted:
        accuracies: dict[str, list[float]] = {name: [] for name in corrupted}
        for name, severities in corrupted.items():
            for severity, split in enumerate(severities, start=1):
                loader = build_loader(renumbered(split, alphabetical, setup), transforms, name, **cached)
                shifted = evaluate(model, loader, pieces=pieces, description=f"{name} {severity}")
                accuracies[name].append(shifted["acc"])
        result |= {"corruptions": accuracies, "corruptions_acc": float(np.mean(list(accuracies.values())))}
        print(f"The labels 0, 1, 2, ... of the corrupted images mean {', '.join(alphabetical)}.")
    print(describe(result))
    if args.output:
        write_json(args.output, asked | result | environment(args.device) | {"command": args.command})
    return result


def describe(result: dict) -> str:
    right = round(result["acc"] * result["test_size"])
    accuracy = f"Test accuracy {result['acc']:.4f} ({right} of {result['test_size']})"
    classes = [class_table(result["per_class"])] if "per_class" in result else []
    return "\n".join([accuracy, *classes, *([table(result)] if "corruptions" in result else [])])


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
