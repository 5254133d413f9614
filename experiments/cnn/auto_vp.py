"""AutoVP: a visual prompt around an image whose size may learn, and one of many label mappings.

Tsao et al., "AutoVP: An Automated Visual Prompting Framework and Benchmark", ICLR 2024. The image is --image-size times
--scale pixels wide; with --trainable-scale the scale learns. Its FullyMap is --mapping full, FreqMap flm, IterMap ilm,
SemanticMap semantic; --sources 5 gives a target five source classes.

    python experiments/cnn/auto_vp.py --network resnet18 --dataset flowers102 --scale 1.0 --trainable-scale
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torchvision.transforms import v2

from algorithms.label_mapping import semantic_label_mapping
from algorithms.mapping_rules import ALL_MAPPINGS
from algorithms.training import step_schedule
from data.loaders import load_data, read_dataset
from models.clip import name_similarities
from models.networks import load_network
from models.output_mapping import empty_mapping
from models.prompted import Prompted
from models.scaled_prompt import ScaledVisualPrompt
from models.visual_prompt import ExpansiveVisualPrompt, scaled
from tools.common.args import add_warmup_flag, experiment_parser
from tools.common.mapping_flags import add_mapping_flags, add_name_clip_flags
from tools.common.prompt_flags import add_scale_flags
from tools.common.run import run_experiment

parser = experiment_parser(__file__, __doc__, lr=0.001, batch_size=128)
add_scale_flags(parser)
add_mapping_flags(parser, "full", "full", "semantic")
add_name_clip_flags(parser)
add_warmup_flag(parser)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_network(args.network, run)
    canvas, size = network.input_size, scaled(args.image_size, network.input_size)
    if args.trainable_scale:
        prompt = ScaledVisualPrompt(size, canvas, args.scale)
    else:
        size = min(canvas, int(size * args.scale))
        prompt = ExpansiveVisualPrompt(size, canvas)
    num_source, kind = len(network.class_names), ALL_MAPPINGS[args.mapping].kind
    mapping = empty_mapping(kind, num_source, dataset.num_classes, args.sources)
    model = Prompted(prompt, network, mapping)
    if args.mapping == "semantic":
        similarities = name_similarities(args, run, network.class_names, dataset.class_names)
        mapping.set(semantic_label_mapping(similarities, args.sources))

    resize = [v2.Resize((size, size))]
    data = load_data(dataset, run, train=resize, eval=resize)

    optimizer = torch.optim.Adam([*prompt.parameters(), *mapping.parameters()], lr=args.lr, fused=True)
    if args.trainable_scale:
        optimizer.register_step_post_hook(prompt.keep_in_range)
    scheduler = step_schedule(optimizer, args.epoch, warmup=args.warmup)
    return run.fit(model, data, optimizer, scheduler, on_epoch_start=run.remapping(model, data.train))


if __name__ == "__main__":
    run_experiment(train, parser)
