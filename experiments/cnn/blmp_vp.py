"""BLM+-VP: a visual prompt, and weights between source and target labels from probabilities, made every epoch.

Cai et al., "Bayesian-guided Label Mapping for Visual Reprogramming", NeurIPS 2024: BLM+. As BLM, but each training
image adds the probabilities of its most probable source classes, 15 % as many as there are target classes.

    python experiments/cnn/blmp_vp.py --network resnet18 --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torchvision.transforms import v2

from algorithms.label_mapping import bayesian_label_mapping
from algorithms.mapping_rules import top_fraction
from algorithms.training import step_schedule
from data.loaders import load_data, read_dataset
from models.networks import load_network
from models.output_mapping import WeightLabels
from models.prompted import Prompted
from models.visual_prompt import ExpansiveVisualPrompt
from tools.common.args import add_warmup_flag, experiment_parser
from tools.common.mapping_flags import add_bayesian_flags, add_iteration_flags
from tools.common.run import run_experiment

parser = experiment_parser(__file__, __doc__, lr=0.01, batch_size=256)
add_bayesian_flags(parser, plus=True)
add_iteration_flags(parser)
add_warmup_flag(parser)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_network(args.network, run)
    prompt = ExpansiveVisualPrompt(dataset.image_size, network.input_size, dataset.inner_mask)
    mapping = WeightLabels(len(network.class_names), dataset.num_classes)
    model = Prompted(prompt, network, mapping)

    resize = [v2.Resize((dataset.image_size, dataset.image_size))]
    data = load_data(dataset, run, train=resize, eval=resize)

    optimizer = torch.optim.Adam(prompt.parameters(), lr=args.lr, fused=True)
    scheduler = step_schedule(optimizer, args.epoch, warmup=args.warmup)

    def remap(epoch):
        if epoch % args.mapping_interval == 0:
            masses = run.count_predictions(model, data.train, top=top_fraction(dataset.num_classes, args.top_fraction))
            mapping.set(bayesian_label_mapping(masses, args.smoothing))

    return run.fit(model, data, optimizer, scheduler, on_epoch_start=remap)


if __name__ == "__main__":
    run_experiment(train, parser)
