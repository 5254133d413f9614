"""BLM+ on CLIP: a visual prompt, and weights between text prompts and classes from probabilities, made every epoch.

Cai et al., "Bayesian-guided Label Mapping for Visual Reprogramming", NeurIPS 2024, its experiments on CLIP. As BLM, but
each training image adds the probabilities of its most probable text prompts, 15 % as many as there are classes.

    python experiments/clip/blmp_vp.py --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from algorithms.label_mapping import bayesian_label_mapping
from algorithms.mapping_rules import top_fraction
from algorithms.training import cosine_schedule
from data.loaders import load_data, read_dataset
from models.clip import TEMPLATES, load_clip
from models.output_mapping import WeightLabels
from models.prompted import Prompted
from models.visual_prompt import AdditiveVisualPrompt, frame, scaled
from tools.common.args import clip_parser
from tools.common.mapping_flags import add_bayesian_flags, add_iteration_flags
from tools.common.run import run_experiment

parser = clip_parser(__file__, __doc__, lr=40.0, batch_size=256)
add_bayesian_flags(parser, plus=True)
add_iteration_flags(parser)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_clip(args, run, TEMPLATES, dataset.class_names)
    prompt = AdditiveVisualPrompt(frame(network.input_size, scaled(30, network.input_size)), network.std)
    mapping = WeightLabels(len(network.class_names), dataset.num_classes)
    model = Prompted(prompt, network, mapping)

    data = load_data(dataset, run, train=network.preprocess, eval=network.preprocess)

    optimizer = torch.optim.SGD(prompt.parameters(), lr=args.lr, momentum=0.9, fused=True)
    scheduler = cosine_schedule(optimizer, args.epoch * len(data.train))

    def remap(epoch):
        if epoch % args.mapping_interval == 0:
            masses = run.count_predictions(model, data.train, top=top_fraction(dataset.num_classes, args.top_fraction))
            mapping.set(bayesian_label_mapping(masses, args.smoothing))

    return run.fit(model, data, optimizer, scheduler, on_epoch_start=remap, schedule_steps=True)


if __name__ == "__main__":
    run_experiment(train, parser)
