"""Linear probing: a new last layer on a frozen network, the baseline that learns no pixels.

As in the experiments of Chen et al., "Understanding and Improving Visual Prompting: A Label-Mapping Perspective", CVPR
2023. The images fill the network's input. The network never changes, so its features are computed once for all epochs.

    python experiments/cnn/linear_probing.py --network resnet18 --dataset flowers102
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
from models.networks import find_network, load_network
from tools.common.args import experiment_parser
from tools.common.run import Run


def main(argv: list[str] | None = None) -> dict:
    parser = experiment_parser(__file__, __doc__, lr=0.1)
    args = parser.parse_args(argv)
    dataset, row = find_dataset(args.dataset), find_network(args.network)
    with Run(args, parser) as run:
        if run.result:
            return run.report()
        splits = dataset.read(**run.selection)
        transform = Transform(row.input_size)
        loading = run.loading(dataset.batch_size)
        loaders = build_loaders(splits, train_transform=transform, eval_transform=transform, **loading)
        encoder = load_network(args.network, num_classes=0, **run.placement)
        loaders = loaders.map(lambda loader, part: loader.encoded(encoder, lambda b: progress(b, f"{part} features")))

        head = torch.nn.Linear(loaders.train.examples.shape[1], len(splits.class_names)).to(run.device)

        optimizer = torch.optim.Adam(head.parameters(), lr=args.lr, fused=True)
        scheduler = step_schedule(optimizer, args.epoch)
        run.track(splits, transform, head_dict=head, optimizer_dict=optimizer, scheduler_dict=scheduler)
        fit(head, loaders, optimizer, scheduler, **run.fitting)
        return run.finish()


if __name__ == "__main__":
    run_command(main)
