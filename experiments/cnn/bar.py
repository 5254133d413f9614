"""BAR: pixels around the image and a map of labels, learned from a network's answers alone, by random directions.

Tsai et al., "Transfer Learning without Knowing: Reprogramming Black-box Machine Learning Models with Scarce Data and
Limited Resources", ICML 2020. Each target has --sources source classes, whose scores are averaged: those that the
network predicts most often, or with --mapping semantic those with the most similar names. A step asks once more than
--draws, and each map that is counted asks a pass; --budget ends training after so many questions. The constants are
those of BlackVIP's code (CVPR 2023), which has BAR on CLIP.

    python experiments/cnn/bar.py --network resnet18 --dataset flowers102 --sources 5 --budget 5000
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torchvision.transforms import v2

from algorithms.label_mapping import semantic_label_mapping
from algorithms.losses import focal_loss
from algorithms.mapping_rules import ALL_MAPPINGS
from algorithms.zeroth_order import RandomGradientFree, polynomial_schedule
from data.loaders import load_data, read_dataset
from models.black_box import BlackBox
from models.clip import name_similarities
from models.networks import load_network
from models.output_mapping import empty_mapping
from models.prompted import Prompted
from models.visual_prompt import ExpansiveVisualPrompt, scaled
from tools.common.args import experiment_parser
from tools.common.black_box_flags import add_bar_flags
from tools.common.mapping_flags import add_mapping_flags, add_name_clip_flags
from tools.common.run import run_experiment

parser = experiment_parser(__file__, __doc__, lr=10.0, epoch=250, batch_size=128)
add_bar_flags(parser)
add_mapping_flags(parser, "flm", "semantic")
add_name_clip_flags(parser)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = BlackBox(load_network(args.network, run), args.budget, args.budget_images, run.pieces)
    size = min(network.input_size, scaled(args.image_size, network.input_size))
    prompt = ExpansiveVisualPrompt(size, network.input_size)
    torch.nn.init.normal_(prompt.program)
    num_source, kind = len(network.class_names), ALL_MAPPINGS[args.mapping].kind
    mapping = empty_mapping(kind, num_source, dataset.num_classes, args.sources)
    model = Prompted(prompt, network, mapping)
    if args.mapping == "semantic":
        similarities = name_similarities(args, run, network.class_names, dataset.class_names)
        mapping.set(semantic_label_mapping(similarities, args.sources))

    resize = [v2.Resize((size, size))]
    data = load_data(dataset, run, train=resize, eval=resize).with_passes(args.passes)

    optimizer = RandomGradientFree(prompt.parameters(), lr=args.lr, beta=args.beta, draws=args.draws)
    steps = network.questions.steps(optimizer.evaluations, data.train, args.epoch)
    scheduler = polynomial_schedule(optimizer, steps, args.least_lr)
    remap = run.remapping(model, data.train)
    return run.fit(model, data, optimizer, scheduler, on_epoch_start=remap, schedule_steps=True, loss=focal_loss)


if __name__ == "__main__":
    run_experiment(train, parser)
