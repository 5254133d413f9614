"""ACAVP on ImageNet networks: a visual prompt that moves, resizes and recolours the image and adds pixels beside it.

"ACAVP" (affine, colour and additive visual prompting), NeurIPS 2025, arXiv 2510.07823. Training images go through
TrivialAugment. On networks other than CLIP the paper's gradients are neither normalised nor clipped. With its learning
rate of 40 for all parts, the first step can shrink the image to one pixel, as we saw with efficientnet_lite0. So the
affine and colour parts have a smaller rate of their own. The paper's label mapping gives each class its most frequent
source class; flm is the nearest of the mappings here.

    python experiments/cnn/acavp.py --network resnet50_v1 --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torchvision.transforms import v2

from algorithms.mapping_rules import MAPPINGS
from algorithms.training import cosine_schedule
from data.loaders import load_data, read_dataset
from models.affine_prompt import AffineColourVisualPrompt
from models.networks import load_network
from models.output_mapping import empty_mapping
from models.prompted import Prompted
from models.visual_prompt import scaled
from tools.common.args import experiment_parser
from tools.common.flag_types import positive_float
from tools.common.mapping_flags import add_mapping_flags
from tools.common.run import run_experiment

parser = experiment_parser(__file__, __doc__, lr=40.0, epoch=1000, batch_size=256, augment="trivial")
rate = "learning rate of the affine and colour parts; default 0.01"
parser.add_argument("--transform-lr", type=positive_float, default=0.01, help=rate)
add_mapping_flags(parser, "flm")


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_network(args.network, run)
    size = network.input_size
    prompt = AffineColourVisualPrompt(size)
    num_source, kind = len(network.class_names), MAPPINGS[args.mapping].kind
    mapping = empty_mapping(kind, num_source, dataset.num_classes, args.sources)
    model = Prompted(prompt, network, mapping)

    resize = v2.Resize(scaled(256, size))
    diverse = [resize, v2.RandomHorizontalFlip(), v2.RandomCrop(size)]
    data = load_data(dataset, run, train=diverse, eval=[resize, v2.CenterCrop(size)])

    groups = [{"params": [prompt.program]}, {"params": prompt.moving(), "lr": args.transform_lr}]
    optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=0.9, fused=True)
    scheduler = cosine_schedule(optimizer, args.epoch * len(data.train))
    remap = run.remapping(model, data.train)
    return run.fit(model, data, optimizer, scheduler, on_epoch_start=remap, schedule_steps=True)


if __name__ == "__main__":
    run_experiment(train, parser)
