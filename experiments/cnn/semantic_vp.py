"""Semantic-VP: a visual prompt, and a label mapping by the likeness of class names, made once.

Tsao et al., "AutoVP: An Automated Visual Prompting Framework and Benchmark", ICLR 2024: SemanticMap. CLIP's text
encoder compares the bare names of source and target classes. In turn, each target gets the most similar source class
that is left. The prompt and its settings are ILM-VP's, so that the map alone differs from flm_vp.py.

    python experiments/cnn/semantic_vp.py --network resnet18 --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torchvision.transforms import v2

from algorithms.label_mapping import semantic_label_mapping
from algorithms.training import step_schedule
from data.loaders import load_data, read_dataset
from models.clip import name_similarities
from models.networks import load_network
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.visual_prompt import ExpansiveVisualPrompt
from tools.common.args import add_warmup_flag, experiment_parser
from tools.common.mapping_flags import add_name_clip_flags, add_sources_flag
from tools.common.run import run_experiment

parser = experiment_parser(__file__, __doc__, lr=0.01)
add_sources_flag(parser)
add_name_clip_flags(parser)
add_warmup_flag(parser)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_network(args.network, run)
    prompt = ExpansiveVisualPrompt(dataset.image_size, network.input_size, dataset.inner_mask)
    mapping = SelectLabels(dataset.num_classes, args.sources)
    model = Prompted(prompt, network, mapping)
    similarities = name_similarities(args, run, network.class_names, dataset.class_names)
    mapping.set(semantic_label_mapping(similarities, args.sources))

    resize = [v2.Resize((dataset.image_size, dataset.image_size))]
    data = load_data(dataset, run, train=resize, eval=resize)

    optimizer = torch.optim.Adam(prompt.parameters(), lr=args.lr, fused=True)
    scheduler = step_schedule(optimizer, args.epoch, warmup=args.warmup)
    return run.fit(model, data, optimizer, scheduler)


if __name__ == "__main__":
    run_experiment(train, parser)
