"""result.json: the numbers of a run, and the text that shows them to the user."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cfg
from tools.common.machine import ROOT
from tools.common.shell import from_here, in_shell


def summarise(records: Sequence[dict]) -> dict:
    """A run's numbers from its epochs. Accuracies are in [0,1], epochs count from 1. The first of equal epochs is best.

    `test_acc_best` selects on the test set, as the originals report. `kept_epoch` is the epoch in best.pth: the best
    validation epoch, or the best test epoch if there is no validation split.
    """
    best_test = max(records, key=lambda record: record["test_acc"])
    best_val = max(records, key=lambda record: record["val_acc"]) if "val_acc" in records[0] else None
    per_image = [1 / record["images_per_second"] for record in records if "images_per_second" in record]
    return {
        "epochs_done": len(records),
        "test_acc_last": records[-1]["test_acc"],
        "test_acc_at_best_val": best_val and best_val["test_acc"],
        "best_val_epoch": best_val and best_val["epoch"],
        "val_acc_best": best_val and best_val["val_acc"],
        "val_acc_last": records[-1].get("val_acc"),
        "test_acc_best": best_test["test_acc"],
        "test_acc_best_epoch": best_test["epoch"],
        "kept_epoch": (best_val or best_test)["epoch"],
        "kept_by": "val_acc" if best_val else "test_acc",
        "train_acc_last": records[-1].get("train_acc"),
        "seconds": sum(record["seconds"] for record in records),
        "images_per_second": len(per_image) / sum(per_image) if per_image else None,
    }


def collapse(records: Sequence[dict], classes: int, args: argparse.Namespace) -> str | None:
    """A sentence on the first epoch in which most targets had no prediction; None if there is no such epoch.

    None too for a mapping that follows probabilities: these order the source labels also where there is no prediction.
    """
    probabilities = getattr(args, "mapping_counts", "") == "probabilities" or hasattr(args, "top_fraction")
    if probabilities or getattr(args, "mapping", "") == "blmp":
        return None
    for record in records:
        without = record.get("targets_without_predictions", 0)
        if without > classes / 2:
            counts = "--mapping-counts probabilities, or " if hasattr(args, "mapping_counts") else ""
            arbitrary = f"{without} of {classes} targets have no prediction, so their source labels are arbitrary"
            return f"The map collapses in epoch {record['epoch']}: {arbitrary}. Try {counts}a lower --lr."
    return None


def describe(result: dict, folder: Path) -> str:
    """The text at the end of a run: accuracies, the map in words, the folder, and what to type next."""
    when = f"after the last epoch ({result['epochs_done']})" if result["epochs"] else "without training"
    lines = ["", f"Test accuracy {result['test_acc_last']:.4f} {when}."]
    if result["test_acc_at_best_val"] is not None:
        at = f"at the best validation epoch ({result['best_val_epoch']})"
        lines.append(f"Test accuracy {result['test_acc_at_best_val']:.4f} {at}.")
    best = f"epoch {result['test_acc_best_epoch']}, chosen on the test set, as the originals report"
    if result["epochs"]:
        lines.append(f"Test accuracy {result['test_acc_best']:.4f} at best ({best}).")
    lines += [result["collapse"]] if result.get("collapse") else []
    if "calls" in result:
        lines.append(f"Training asked {result['calls']} times, {result['images_asked']} images in all.")
        lines.append(f"Evaluation asked {result['evaluation_images_asked']} images.")
    mapping = list(result.get("mapping", {}).items())
    lines += [f"  {target} -> {source}" for target, source in mapping[:20]]
    if len(mapping) > 20:
        lines.append(f"  ... and {len(mapping) - 20} more in result.json")
    tools, checkpoint = from_here(ROOT / "tools"), str(folder / "best.pth")
    commands = (
        ["python", f"{tools}/evaluate.py", "--checkpoint", checkpoint],
        ["python", f"{tools}/predict.py", "--checkpoint", checkpoint, "YOUR_IMAGE.jpg"],
        ["tensorboard", "--logdir", str(cfg.results_path)],
    )
    return "\n".join([*lines, f"Run folder: {folder}", "Next:", *(f"  {in_shell(words)}" for words in commands)])
