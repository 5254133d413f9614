"""AttrVR: a visual prompt around the image on CLIP, whose classes are described by sentences.

Cai et al., "Attribute-based Visual Reprogramming for Vision-Language Models", ICLR 2025. Each class has --descriptions
sentences in each of two files, descriptive and distinctive ones. A class's logit is the mean over the --nearest
sentences to the image, --alpha times that of the first file and 1 - alpha times that of the second. The paper's
baselines have one text prompt for each class: AR has the same visual prompt, VP a frame on top of the image.

    python experiments/clip/attr_vr.py --dataset dtd --attributes my_attributes --shots 16 --val-shots 4
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from algorithms.training import cosine_schedule
from data.attributes import read_attributes
from data.loaders import load_data, read_dataset
from data.transforms import random_crops
from models.clip import load_clip_of_texts, text_prompts
from models.prompted import Prompted
from models.sentence_mapping import NearestSentences
from models.visual_prompt import AdditiveVisualPrompt, ExpansiveVisualPrompt, frame, scaled
from tools.common.args import clip_parser
from tools.common.attribute_flags import add_attribute_flags
from tools.common.run import run_experiment

TEMPLATE = "This is a photo of {}."

parser = clip_parser(__file__, __doc__, lr=40.0, batch_size=64)
add_attribute_flags(parser, TEMPLATE)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    if args.attr_method == "attr_vr":
        banks = read_attributes(Path(args.attributes), dataset.name, dataset.class_names, args.descriptions, args.seed)
        mapping = NearestSentences(dataset.num_classes, args.descriptions, args.nearest, [args.alpha, 1 - args.alpha])
    else:
        banks = [text_prompts([args.template or dataset.text_template or TEMPLATE], dataset.class_names)]
        mapping = NearestSentences(dataset.num_classes, 1, 1, [1.0])
    network = load_clip_of_texts(args, run, [text for bank in banks for text in bank])
    canvas = network.input_size
    if args.attr_method == "vp":
        size = canvas
        prompt = AdditiveVisualPrompt(frame(canvas, scaled(30, canvas)), network.std)
    else:
        size = scaled(192, canvas)
        prompt = ExpansiveVisualPrompt(size, canvas)
    model = Prompted(prompt, network, mapping)

    data = load_data(dataset, run, **random_crops(size))

    optimizer = torch.optim.SGD(prompt.parameters(), lr=args.lr, momentum=0.9, fused=True)
    scheduler = cosine_schedule(optimizer, args.epoch * len(data.train))
    return run.fit(model, data, optimizer, scheduler, schedule_steps=True)


if __name__ == "__main__":
    run_experiment(train, parser)
