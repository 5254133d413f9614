"""Fully-VP on CLIP: a visual prompt, and a linear layer from text prompts to classes that learns with it.

Tsao et al., "AutoVP: An Automated Visual Prompting Framework and Benchmark", ICLR 2024: FullyMap on CLIP. The source
labels are 81 templates x T classes. The layer starts with each class's text prompt in the first template. The prompt is
ILM-VP's frame. AutoVP trains the layer at the prompt's learning rate of 40; here it has its own.

    python experiments/clip/fully_vp.py --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from algorithms.training import cosine_schedule
from data.loaders import load_data, read_dataset
from models.clip import TEMPLATES, load_clip
from models.output_mapping import LinearLabels
from models.prompted import Prompted
from models.visual_prompt import AdditiveVisualPrompt, frame, scaled
from tools.common.args import clip_parser
from tools.common.flag_types import positive_float
from tools.common.run import run_experiment

parser = clip_parser(__file__, __doc__, lr=40.0, batch_size=128)
rate = "learning rate of the layer; default 0.001"
parser.add_argument("--mapping-lr", type=positive_float, default=0.001, help=rate)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_clip(args, run, TEMPLATES, dataset.class_names)
    prompt = AdditiveVisualPrompt(frame(network.input_size, scaled(30, network.input_size)), network.std)
    mapping = LinearLabels(len(network.class_names), dataset.num_classes, identity=True)
    model = Prompted(prompt, network, mapping)

    data = load_data(dataset, run, train=network.preprocess, eval=network.preprocess)

    groups = [{"params": prompt.parameters()}, {"params": mapping.parameters(), "lr": args.mapping_lr}]
    optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=0.9, fused=True)
    scheduler = cosine_schedule(optimizer, args.epoch * len(data.train))
    return run.fit(model, data, optimizer, scheduler, schedule_steps=True)


if __name__ == "__main__":
    run_experiment(train, parser)
