"""Fully-VP: a visual prompt, and a linear layer from source to target logits that learns with it.

Tsao et al., "AutoVP: An Automated Visual Prompting Framework and Benchmark", ICLR 2024: FullyMap. The layer starts as
torch initialises it, and Adam trains it with the prompt, at a learning rate of its own if one is given. The prompt is
ILM-VP's, around images of the data set's size; auto_vp.py has AutoVP's own sizes.

    python experiments/cnn/fully_vp.py --network resnet18 --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torchvision.transforms import v2

from algorithms.training import step_schedule
from data.loaders import load_data, read_dataset
from models.networks import load_network
from models.output_mapping import LinearLabels
from models.prompted import Prompted
from models.visual_prompt import ExpansiveVisualPrompt
from tools.common.args import add_warmup_flag, experiment_parser
from tools.common.flag_types import positive_float
from tools.common.run import run_experiment

parser = experiment_parser(__file__, __doc__, lr=0.001, batch_size=128)
parser.add_argument("--mapping-lr", type=positive_float, help="learning rate of the layer; default: --lr")
add_warmup_flag(parser)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_network(args.network, run)
    prompt = ExpansiveVisualPrompt(dataset.image_size, network.input_size, dataset.inner_mask)
    mapping = LinearLabels(len(network.class_names), dataset.num_classes)
    model = Prompted(prompt, network, mapping)

    resize = [v2.Resize((dataset.image_size, dataset.image_size))]
    data = load_data(dataset, run, train=resize, eval=resize)

    groups = [{"params": prompt.parameters()}, {"params": mapping.parameters(), "lr": args.mapping_lr or args.lr}]
    optimizer = torch.optim.Adam(groups, lr=args.lr, fused=True)
    scheduler = step_schedule(optimizer, args.epoch, warmup=args.warmup)
    return run.fit(model, data, optimizer, scheduler)


if __name__ == "__main__":
    run_experiment(train, parser)
