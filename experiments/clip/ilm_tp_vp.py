"""ILM-TP-VP: a visual prompt on CLIP, and a text prompt for each class, chosen again at the start of every epoch.

Chen et al., "Understanding and Improving Visual Prompting: A Label-Mapping Perspective", CVPR 2023, its CLIP section:
the source labels are 81 templates x T classes. Iterative label mapping gives each class the text prompt that CLIP, with
the current visual prompt, predicts most often for its training images.

    python experiments/clip/ilm_tp_vp.py --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from algorithms.label_mapping import frequency_label_mapping
from algorithms.training import cosine_schedule
from data.loaders import load_data, read_dataset
from models.clip import TEMPLATES, load_clip
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.visual_prompt import AdditiveVisualPrompt, frame, scaled
from tools.common.args import clip_parser
from tools.common.mapping_flags import add_counts_flag, add_iteration_flags, add_sources_flag, add_unpredicted_flag
from tools.common.run import run_experiment

parser = clip_parser(__file__, __doc__, lr=40.0)
add_counts_flag(parser)
add_sources_flag(parser)
add_iteration_flags(parser)
add_unpredicted_flag(parser)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_clip(args, run, TEMPLATES, dataset.class_names)
    prompt = AdditiveVisualPrompt(frame(network.input_size, scaled(30, network.input_size)), network.std)
    mapping = SelectLabels(dataset.num_classes, args.sources)
    model = Prompted(prompt, network, mapping)

    data = load_data(dataset, run, train=network.preprocess, eval=network.preprocess)

    optimizer = torch.optim.SGD(prompt.parameters(), lr=args.lr, momentum=0.9, fused=True)
    scheduler = cosine_schedule(optimizer, args.epoch * len(data.train))

    def remap(epoch):
        if epoch % args.mapping_interval == 0:
            counts = run.count_predictions(model, data.train)
            former = mapping.sources if args.unpredicted == "keep" else None
            mapping.set(frequency_label_mapping(counts, args.sources, former))

    return run.fit(model, data, optimizer, scheduler, on_epoch_start=remap, schedule_steps=True)


if __name__ == "__main__":
    run_experiment(train, parser)
