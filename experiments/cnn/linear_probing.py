"""Linear probing: a new last layer on a frozen network. This baseline learns no pixels.

As in the experiments of Chen et al., "Understanding and Improving Visual Prompting: A Label-Mapping Perspective", CVPR
2023. The images fill the network's input. The network never changes, so its features are computed once for all epochs.

    python experiments/cnn/linear_probing.py --network resnet18 --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torchvision.transforms import v2

from algorithms.training import progress, step_schedule
from data.loaders import load_data, read_dataset
from models.networks import LinearHead, load_network
from tools.common.args import add_warmup_flag, experiment_parser
from tools.common.run import run_experiment

parser = experiment_parser(__file__, __doc__, lr=0.1, auto_bfloat16=False, augment=None)  # images are encoded once
add_warmup_flag(parser)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_network(args.network, run, num_classes=0)
    resize = [v2.Resize((network.input_size, network.input_size))]
    data = load_data(dataset, run, train=resize, eval=resize).encoded(run.pieces.outputs(network), progress)

    head = LinearHead(data.num_features, data.num_classes).to(run.device)

    optimizer = torch.optim.Adam(head.parameters(), lr=args.lr, fused=True)
    scheduler = step_schedule(optimizer, args.epoch, warmup=args.warmup)
    return run.fit(head, data, optimizer, scheduler, network=network)


if __name__ == "__main__":
    run_experiment(train, parser)
