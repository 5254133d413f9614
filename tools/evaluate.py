"""The accuracy of a saved prompt, head or network on the test split.

    python tools/evaluate.py --checkpoint results/cnn/ilm_vp/RUN/best.pth
    python tools/evaluate.py --checkpoint FILE --network resnet18 --dataset flowers102

The second form is for a checkpoint of the original ILM-VP repository, which does not say what it belongs to.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.common.command import run_command  # first, for Ctrl-C during the imports

# isort: split

import cfg
from algorithms.training import evaluate
from data.catalog import find_dataset
from data.loaders import build_loader
from data.transforms import restore_transform
from errors import UserError
from models.restore import default_transform, restore
from tools.common.args import Parser, add_checkpoint_flags, resolve_precision
from tools.common.files import open_checkpoint
from tools.common.flag_types import positive_int


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(__file__, __doc__)
    add_checkpoint_flags(parser)
    parser.add_argument("--batch-size", type=positive_int, default=128, help="images")
    args = parser.parse_args(argv)
    precision = resolve_precision(args.precision, args.device)
    checkpoint, setup = open_checkpoint(args)
    dataset = find_dataset(setup["dataset"])
    splits = dataset.read()
    check_classes(checkpoint, setup, splits.class_names)
    setup = {"class_names": splits.class_names, "transform": default_transform(setup, dataset.image_size)} | setup
    transform = restore_transform(setup, None)
    placement = {"device": args.device, "precision": precision}
    model = restore(checkpoint, setup, image_size=transform.side, **placement)
    loader = build_loader(
        splits.test,
        transform,
        f"{splits.name} test",
        batch_size=args.batch_size,
        device=args.device,
        workers=args.workers,
        cache_folder=cfg.data_path / ".cache",
    )
    result = evaluate(model, loader, description="test")
    total = len(splits.test)
    print(f"{setup['network']} on {setup['dataset']}, {args.checkpoint}")
    print(f"Test accuracy {result['acc']:.4f} ({round(result['acc'] * total)} of {total}), loss {result['loss']:.4f}")
    return result


def check_classes(checkpoint: dict, setup: dict, class_names: tuple[str, ...]) -> None:
    """Refuses a data set whose target classes are not the checkpoint's, by name or (of a foreign file) by number."""
    own = setup.get("class_names")
    number = len(own) if own else len(checkpoint.get("mapping_sequence", class_names))
    if (own and list(own) != list(class_names)) or number != len(class_names):
        raise UserError(
            f"--dataset {setup['dataset']}: its classes should be those of the checkpoint.",
            f"The checkpoint has {number} ({', '.join(own[:5]) + ', ...' if own else 'unnamed'}),"
            f" the data set {len(class_names)} ({', '.join(class_names[:5])}, ...).",
            "Give the data set that the checkpoint was trained on, or one with the same class names.",
        )


if __name__ == "__main__":
    run_command(main)
