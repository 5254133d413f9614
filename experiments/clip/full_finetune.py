"""Full fine-tuning of CLIP's image encoder: every weight learns, and a new last layer; the upper baseline.

A baseline of both papers' CLIP experiments; neither states its settings. Here: the shorter side resized to 256 for an
input of 224 (in this ratio for others), a random crop and flip in training, CLIP's own preprocessing in evaluation.

    python experiments/clip/full_finetune.py --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.common.command import run_command  # first, for Ctrl-C during the imports

# isort: split

import torch

from algorithms.distributed import synchronise_batch_norm
from algorithms.training import cosine_schedule, fit
from data.catalog import find_dataset
from data.loaders import build_loaders
from data.transforms import Transform
from models.clip import load_image_encoder
from models.clip_source import find_clip
from tools.common.args import clip_parser
from tools.common.flag_types import scaled
from tools.common.run import Run


def main(argv: list[str] | None = None) -> dict:
    parser = clip_parser(__file__, __doc__, lr=1e-5)
    args = parser.parse_args(argv)
    dataset, row = find_dataset(args.dataset), find_clip(args.clip_model, args.pretrained, args.clip_config)
    with Run(args, parser) as run:
        if run.result:
            return run.report()
        splits = dataset.read(**run.selection)
        larger = {"size": scaled(256, row.input_size), "crop": row.input_size}
        train_transform = Transform(**larger, random=True, **row.preprocessing)
        eval_transform = Transform(row.input_size, **row.preprocessing)
        loading = run.loading(dataset.batch_size)
        loaders = build_loaders(splits, train_transform=train_transform, eval_transform=eval_transform, **loading)
        model = load_image_encoder(row, num_classes=len(splits.class_names), frozen=False, **run.placement)
        model = synchronise_batch_norm(model, run.device)

        optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.1, fused=True)
        scheduler = cosine_schedule(optimizer, args.epoch * len(loaders.train))
        parts = {"network_dict": model, "optimizer_dict": optimizer, "scheduler_dict": scheduler}
        run.track(splits, eval_transform, row.settings(), **parts)
        fit(model, loaders, optimizer, scheduler, schedule_steps=True, **run.fitting)
        return run.finish()


if __name__ == "__main__":
    run_command(main)
