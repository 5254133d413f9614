"""RVP: a visual prompt around the image on CLIP, weights of the sentences that describe a class, and mixed classes.

"Reprogramming vision-language models via structured prompt reparameterization", arXiv 2609.36680, 2026. Each class has
--descriptions sentences. A class's logit f is the weighted mean over its sentences, and the target logits are
f (I + E). The weights and E learn with the prompt, at --mapping-lr. All of it after the image encoder is one linear
head: `tools/export.py` writes it so (`models.sentence_mapping.folded`).

No code is published, and the paper's optimizer of the weights and of E is not known here. It is the prompt's: SGD with
momentum and a cosine.

    python experiments/clip/rvp.py --dataset dtd --attributes my_attributes --shots 16 --val-shots 4
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from algorithms.training import cosine_schedule
from data.attributes import read_attributes
from data.loaders import load_data, read_dataset
from data.transforms import random_crops
from models.clip import load_clip_of_texts
from models.prompted import Prompted
from models.sentence_mapping import WeightedSentences
from models.visual_prompt import ExpansiveVisualPrompt, scaled
from tools.common.args import clip_parser
from tools.common.attribute_flags import add_descriptive_flags, banks_of
from tools.common.flag_types import positive_float
from tools.common.run import run_experiment

parser = clip_parser(__file__, __doc__, lr=40.0, batch_size=64)
add_descriptive_flags(parser)
rate = "learning rate of the sentences' weights and of E; default 0.001"
parser.add_argument("--mapping-lr", type=positive_float, default=0.001, help=rate)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    (sentences,) = read_attributes(
        Path(args.attributes), dataset.name, dataset.class_names, args.descriptions, args.seed, banks_of(args)
    )
    network = load_clip_of_texts(args, run, sentences)
    size = scaled(192, network.input_size)
    prompt = ExpansiveVisualPrompt(size, network.input_size)
    mapping = WeightedSentences(dataset.num_classes, args.descriptions)
    model = Prompted(prompt, network, mapping)

    data = load_data(dataset, run, **random_crops(size))

    groups = [{"params": prompt.parameters()}, {"params": mapping.parameters(), "lr": args.mapping_lr}]
    optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=0.9, fused=True)
    scheduler = cosine_schedule(optimizer, args.epoch * len(data.train))
    return run.fit(model, data, optimizer, scheduler, schedule_steps=True)


if __name__ == "__main__":
    run_experiment(train, parser)
