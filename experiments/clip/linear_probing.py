"""Linear probing on CLIP: a new last layer on the frozen image encoder, the baseline that learns no pixels.

A baseline of both papers' CLIP experiments. The images are prepared as CLIP's own preprocessing does it; the encoder
never changes, so its embeddings (before they are made unit vectors) are computed once for all epochs.

    python experiments/clip/linear_probing.py --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.common.command import run_command  # first, for Ctrl-C during the imports

# isort: split

import torch

from algorithms.training import fit, progress, step_schedule
from data.catalog import find_dataset
from data.loaders import build_loaders
from data.transforms import Transform
from models.clip import load_image_encoder
from models.clip_source import find_clip
from tools.common.args import clip_parser
from tools.common.run import Run


def main(argv: list[str] | None = None) -> dict:
    parser = clip_parser(__file__, __doc__, lr=0.1)
    args = parser.parse_args(argv)
    dataset, row = find_dataset(args.dataset), find_clip(args.clip_model, args.pretrained, args.clip_config)
    with Run(args, parser) as run:
        if run.result:
            return run.report()
        splits = dataset.read(**run.selection)
        transform = Transform(row.input_size, **row.preprocessing)
        loading = run.loading(dataset.batch_size)
        loaders = build_loaders(splits, train_transform=transform, eval_transform=transform, **loading)
        encoder = load_image_encoder(row, **run.placement)
        loaders = loaders.map(lambda loader, part: loader.encoded(encoder, lambda b: progress(b, f"{part} features")))

        head = torch.nn.Linear(loaders.train.examples.shape[1], len(splits.class_names)).to(run.device)

        optimizer = torch.optim.Adam(head.parameters(), lr=args.lr, fused=True)
        scheduler = step_schedule(optimizer, args.epoch)
        parts = {"head_dict": head, "optimizer_dict": optimizer, "scheduler_dict": scheduler}
        run.track(splits, transform, row.settings(), **parts)
        fit(head, loaders, optimizer, scheduler, **run.fitting)
        return run.finish()


if __name__ == "__main__":
    run_command(main)
