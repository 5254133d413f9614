"""Full fine-tuning: every weight of the network learns, the upper baseline.

As in the experiments of Chen et al., "Understanding and Improving Visual Prompting: A Label-Mapping Perspective", CVPR
2023. Images are resized to 256 x 256 for an input of 224, in the same ratio for other inputs. Training takes a random
crop of the input's size, flipped half of the time. Evaluation takes the centre crop; the original also evaluates on
random crops.

    python experiments/cnn/full_finetune.py --network resnet18 --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torchvision.transforms import v2

from algorithms.distributed import synchronise_batch_norm
from data.loaders import load_data, read_dataset
from models.networks import load_network
from tools.common.args import experiment_parser
from tools.common.run import run_experiment

parser = experiment_parser(__file__, __doc__, lr=1e-4, auto_bfloat16=False)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_network(args.network, run, num_classes=dataset.num_classes, frozen=False)
    size = network.input_size
    resize = v2.Resize((round(size * 256 / 224), round(size * 256 / 224)))
    diverse = [resize, v2.RandomCrop(size), v2.RandomHorizontalFlip()]
    data = load_data(dataset, run, train=diverse, eval=[resize, v2.CenterCrop(size)])

    model = synchronise_batch_norm(network, run.device)

    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, weight_decay=5e-4, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epoch)
    return run.fit(model, data, optimizer, scheduler)


if __name__ == "__main__":
    run_experiment(train, parser)
