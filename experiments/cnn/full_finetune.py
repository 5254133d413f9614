"""Full fine-tuning: every weight of the network learns, the upper baseline.

As in the experiments of Chen et al., "Understanding and Improving Visual Prompting: A Label-Mapping Perspective", CVPR
2023. Images are resized to 256 x 256 for an input of 224 (in this ratio for others); training sees a random crop of the
input's size, flipped half of the time, evaluation the centre crop: the original evaluates on random crops too.

    python experiments/cnn/full_finetune.py --network resnet18 --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.common.command import run_command  # first, for Ctrl-C during the imports

# isort: split

import torch

from algorithms.distributed import synchronise_batch_norm
from algorithms.training import fit
from data.catalog import find_dataset
from data.loaders import build_loaders
from data.transforms import Transform
from models.networks import find_network, load_network
from tools.common.args import experiment_parser
from tools.common.run import Run


def main(argv: list[str] | None = None) -> dict:
    parser = experiment_parser(__file__, __doc__, lr=1e-4)
    args = parser.parse_args(argv)
    dataset, row = find_dataset(args.dataset), find_network(args.network)
    with Run(args, parser) as run:
        if run.result:
            return run.report()
        splits = dataset.read(**run.selection)
        resized = round(row.input_size * 256 / 224)
        train_transform = Transform(resized, crop=row.input_size, random=True)
        eval_transform = Transform(resized, crop=row.input_size)
        loading = run.loading(dataset.batch_size)
        loaders = build_loaders(splits, train_transform=train_transform, eval_transform=eval_transform, **loading)
        model = load_network(args.network, num_classes=len(splits.class_names), frozen=False, **run.placement)
        model = synchronise_batch_norm(model, run.device)

        optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, weight_decay=5e-4, fused=True)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epoch)
        run.track(splits, eval_transform, network_dict=model, optimizer_dict=optimizer, scheduler_dict=scheduler)
        fit(model, loaders, optimizer, scheduler, **run.fitting)
        return run.finish()


if __name__ == "__main__":
    run_command(main)
