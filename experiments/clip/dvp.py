"""DVP: several visual prompts around the image on CLIP, each for a part of the sentences that describe the classes.

Cai et al., "Understanding Model Reprogramming for CLIP via Decoupling Visual Prompts", ICML 2025. DVP-cls has a prompt
for each of --clusters clusters of sentences, found by k-means over all their embeddings. DVP-cse has a prompt for each
of --causes files of sentences. A sentence's logit is that of the image under the sentence's prompt. The reweighting
matrix makes the classes' logits of them: a sentence weighs as much as it is among the --nearest sentences of its class
to the training images of that class.

As in the released code, the predictions of an epoch's training make the matrix at its end, so that its evaluation and
the next epoch have it. There the first epoch makes the first matrix and does not train; here an extra pass makes it,
and all epochs train. A class that no image has counted for gets NaN there, and equal weights here.

    python experiments/clip/dvp.py --dataset dtd --attributes my_attributes --shots 16 --val-shots 4
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F

from algorithms.clusters import k_means
from algorithms.label_mapping import reweighting_matrix
from algorithms.predictions import SentenceCounter
from algorithms.training import cosine_schedule
from data.attributes import by_class, read_attributes
from data.loaders import load_data, read_dataset
from data.transforms import random_crops
from models.clip import load_clip_of_texts
from models.output_mapping import WeightLabels
from models.prompted import Prompted
from models.several_prompts import PromptsOfLabels
from models.visual_prompt import ExpansiveVisualPrompt, scaled
from tools.common.args import clip_parser
from tools.common.attribute_flags import add_decoupled_flags, banks_of
from tools.common.run import run_experiment

parser = clip_parser(__file__, __doc__, lr=40.0, batch_size=64)
add_decoupled_flags(parser)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    banks = read_attributes(
        Path(args.attributes), dataset.name, dataset.class_names, args.descriptions, args.seed, banks_of(args)
    )
    network = load_clip_of_texts(args, run, by_class(banks, dataset.num_classes))
    num_source = len(network.class_names)
    if args.causes:
        prompt_of_sentence = torch.arange(num_source) // args.descriptions % args.causes
    else:
        prompt_of_sentence = k_means(F.normalize(network.bank), args.clusters)
    size = scaled(192, network.input_size)
    one = ExpansiveVisualPrompt(size, network.input_size)
    prompt = PromptsOfLabels(one, args.causes or args.clusters, prompt_of_sentence)
    mapping = WeightLabels(num_source, dataset.num_classes)
    model = Prompted(prompt, network, mapping)

    data = load_data(dataset, run, **random_crops(size))

    optimizer = torch.optim.SGD(prompt.parameters(), lr=args.lr, momentum=0.9, fused=True)
    scheduler = cosine_schedule(optimizer, args.epoch * len(data.train))
    counter = SentenceCounter(num_source, dataset.num_classes, args.nearest)

    def first(epoch):
        if epoch == 0:
            mapping.set(reweighting_matrix(run.counted(model, data.train, counter).counts))

    def reweight(epoch):
        mapping.set(reweighting_matrix(counter.take().counts))

    hooks = {"on_epoch_start": first, "on_epoch_trained": reweight, "observe_train": counter}
    return run.fit(model, data, optimizer, scheduler, schedule_steps=True, **hooks)


if __name__ == "__main__":
    run_experiment(train, parser)
