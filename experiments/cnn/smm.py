"""SMM: a visual prompt over the whole image, times a mask that a small network makes of each image.

Cai et al., "Sample-specific Masks for Visual Reprogramming-based Prompting", ICML 2024. Shared pixels and the mask
network learn together. Any label mapping can follow; the paper's is iterative. For ViTs (timm:vit_...) the defaults are
the paper's other ones: a mask network of six layers, whose learning rate of 0.001 stays.

    python experiments/cnn/smm.py --network resnet18 --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torchvision.transforms import v2

from algorithms.distributed import synchronise_batch_norm
from algorithms.mapping_rules import MAPPINGS
from algorithms.training import step_schedule
from data.loaders import load_data, read_dataset
from models.networks import load_network
from models.output_mapping import empty_mapping
from models.prompted import Prompted
from models.sample_specific import SampleSpecificVisualPrompt
from tools.common.args import add_warmup_flag, experiment_parser
from tools.common.mapping_flags import add_mapping_flags
from tools.common.prompt_flags import add_mask_flags
from tools.common.run import run_experiment

parser = experiment_parser(__file__, __doc__, lr=0.01, batch_size=256)
add_mask_flags(parser)
add_mapping_flags(parser, "ilm")
add_warmup_flag(parser)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_network(args.network, run)
    size, mask = network.input_size, (args.patch_size, args.mask_channels, args.mask_layers)
    prompt = synchronise_batch_norm(SampleSpecificVisualPrompt(size, network.mean, network.std, *mask), run.device)
    num_source, kind = len(network.class_names), MAPPINGS[args.mapping].kind
    mapping = empty_mapping(kind, num_source, dataset.num_classes, args.sources)
    model = Prompted(prompt, network, mapping)

    diverse = [v2.Resize((size + 32, size + 32)), v2.RandomCrop(size), v2.RandomHorizontalFlip()]
    data = load_data(dataset, run, train=diverse, eval=[v2.Resize((size, size))])

    masks = {"params": prompt.mask_network.parameters(), "lr": args.mask_lr or args.lr}
    optimizer = torch.optim.Adam([{"params": [prompt.program]}, masks], lr=args.lr, fused=True)
    constant = [1] if args.mask_schedule == "constant" else []
    scheduler = step_schedule(optimizer, args.epoch, constant, warmup=args.warmup)
    return run.fit(model, data, optimizer, scheduler, on_epoch_start=run.remapping(model, data.train))


if __name__ == "__main__":
    run_experiment(train, parser)
