"""Linear probing on CLIP: a new last layer on the frozen image encoder. This baseline learns no pixels.

It is in both papers' CLIP experiments. CLIP's own preprocessing prepares the images. The encoder never changes, so its
embeddings (before they are made unit vectors) are computed once for all epochs.

    python experiments/clip/linear_probing.py --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from algorithms.training import progress, step_schedule
from data.loaders import load_data, read_dataset
from models.clip import load_image_encoder
from models.networks import LinearHead
from tools.common.args import add_warmup_flag, clip_parser
from tools.common.run import run_experiment

parser = clip_parser(__file__, __doc__, lr=0.1, augment=None)  # images are encoded once
add_warmup_flag(parser)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_image_encoder(args, run)
    data = load_data(dataset, run, train=network.preprocess, eval=network.preprocess).encoded(
        run.pieces.outputs(network), progress
    )

    head = LinearHead(data.num_features, data.num_classes).to(run.device)

    optimizer = torch.optim.Adam(head.parameters(), lr=args.lr, fused=True)
    scheduler = step_schedule(optimizer, args.epoch, warmup=args.warmup)
    return run.fit(head, data, optimizer, scheduler, network=network)


if __name__ == "__main__":
    run_experiment(train, parser)
