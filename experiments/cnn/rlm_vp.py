"""RLM-VP: a visual prompt, and a label mapping drawn at random.

Chen et al., "Understanding and Improving Visual Prompting: A Label-Mapping Perspective", CVPR 2023, Section 3: random
label mapping, the baseline. Each target class gets a source class of its own, drawn once from the seed.

    python experiments/cnn/rlm_vp.py --network resnet18 --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torchvision.transforms import v2

from algorithms.label_mapping import random_label_mapping
from algorithms.training import step_schedule
from data.loaders import load_data, read_dataset
from models.networks import load_network
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.visual_prompt import ExpansiveVisualPrompt
from tools.common.args import add_warmup_flag, experiment_parser
from tools.common.run import run_experiment

parser = experiment_parser(__file__, __doc__, lr=0.01)
add_warmup_flag(parser)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_network(args.network, run)
    prompt = ExpansiveVisualPrompt(dataset.image_size, network.input_size, dataset.inner_mask)
    mapping = SelectLabels(dataset.num_classes)
    generator = torch.Generator().manual_seed(args.seed)
    mapping.set(random_label_mapping(len(network.class_names), dataset.num_classes, generator))
    model = Prompted(prompt, network, mapping)

    resize = [v2.Resize((dataset.image_size, dataset.image_size))]
    data = load_data(dataset, run, train=resize, eval=resize)

    optimizer = torch.optim.Adam(prompt.parameters(), lr=args.lr, fused=True)
    scheduler = step_schedule(optimizer, args.epoch, warmup=args.warmup)
    return run.fit(model, data, optimizer, scheduler)


if __name__ == "__main__":
    run_experiment(train, parser)
