"""Single-TP-VP: a visual prompt on CLIP, and one text template for all classes.

Chen et al., "Understanding and Improving Visual Prompting: A Label-Mapping Perspective", CVPR 2023, its CLIP section:
the baseline of ILM-TP-VP. Template 0 is "This is a photo of a {}.", 1 to 80 are CLIP's own for ImageNet.

    python experiments/clip/single_tp_vp.py --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from algorithms.training import cosine_schedule
from data.loaders import load_data, read_dataset
from models.clip import TEMPLATES, load_clip
from models.output_mapping import one_to_one
from models.prompted import Prompted
from models.visual_prompt import AdditiveVisualPrompt, frame, scaled
from tools.common.args import clip_parser
from tools.common.flag_types import whole_number_in
from tools.common.run import run_experiment

parser = clip_parser(__file__, __doc__, lr=40.0)
number = whole_number_in(0, len(TEMPLATES) - 1)
parser.add_argument("--template-number", type=number, default=0, help="the template, 0 to 80; default 0")


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_clip(args, run, [TEMPLATES[args.template_number]], dataset.class_names)
    prompt = AdditiveVisualPrompt(frame(network.input_size, scaled(30, network.input_size)), network.std)
    mapping = one_to_one(dataset.num_classes)
    model = Prompted(prompt, network, mapping)

    data = load_data(dataset, run, train=network.preprocess, eval=network.preprocess)

    optimizer = torch.optim.SGD(prompt.parameters(), lr=args.lr, momentum=0.9, fused=True)
    scheduler = cosine_schedule(optimizer, args.epoch * len(data.train))
    return run.fit(model, data, optimizer, scheduler, schedule_steps=True)


if __name__ == "__main__":
    run_experiment(train, parser)
