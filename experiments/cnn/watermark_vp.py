"""Watermark-VP: a visual prompt in a frame on top of the image, or all over it.

The baselines Narrow, Medium and Full (--width 28, 56, 112) of Cai et al., "Sample-specific Masks for Visual
Reprogramming-based Prompting", ICML 2024, with the transforms and the optimizer of smm.py. Any label mapping can
follow; the paper's is iterative.

    python experiments/cnn/watermark_vp.py --network resnet18 --dataset flowers102 --width 28
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torchvision.transforms import v2

from algorithms.mapping_rules import MAPPINGS
from algorithms.training import step_schedule
from data.loaders import load_data, read_dataset
from models.networks import load_network
from models.output_mapping import empty_mapping
from models.prompted import Prompted
from models.visual_prompt import AdditiveVisualPrompt, frame, scaled
from tools.common.args import add_warmup_flag, experiment_parser
from tools.common.flag_types import whole_number_in
from tools.common.mapping_flags import add_mapping_flags
from tools.common.run import run_experiment

parser = experiment_parser(__file__, __doc__, lr=0.01, batch_size=256)
width = "width of the frame, in pixels of an input of 224; 112 is the whole image; default 112"
parser.add_argument("--width", type=whole_number_in(1, 112), default=112, help=width)
add_mapping_flags(parser, "ilm")
add_warmup_flag(parser)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_network(args.network, run)
    size = network.input_size
    prompt = AdditiveVisualPrompt(frame(size, scaled(args.width, size)), network.std)
    num_source, kind = len(network.class_names), MAPPINGS[args.mapping].kind
    mapping = empty_mapping(kind, num_source, dataset.num_classes, args.sources)
    model = Prompted(prompt, network, mapping)

    diverse = [v2.Resize((size + 32, size + 32)), v2.RandomCrop(size), v2.RandomHorizontalFlip()]
    data = load_data(dataset, run, train=diverse, eval=[v2.Resize((size, size))])

    optimizer = torch.optim.Adam(prompt.parameters(), lr=args.lr, fused=True)
    scheduler = step_schedule(optimizer, args.epoch, warmup=args.warmup)
    return run.fit(model, data, optimizer, scheduler, on_epoch_start=run.remapping(model, data.train))


if __name__ == "__main__":
    run_experiment(train, parser)
