"""LoR-VP: a visual prompt of low rank all over the image, with a new last layer or a label mapping.

Jin et al., "LoR-VP: Low-Rank Visual Prompting for Efficient Vision Model Adaptation", ICLR 2025. The default output,
lp, is a new linear layer on the network's features, which learns with the prompt. So compare with linear probing first.
The other outputs: full, a linear layer on the source logits that learns, and the label mappings.

    python experiments/cnn/lor_vp.py --network resnet18 --dataset flowers102 --output lp
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torchvision.transforms import v2

from algorithms.mapping_rules import ALL_MAPPINGS
from algorithms.training import cosine_schedule
from data.loaders import load_data, read_dataset
from models.networks import load_network
from models.output_mapping import empty_mapping
from models.prompted import Prompted
from models.visual_prompt import LowRankVisualPrompt
from tools.common.args import experiment_parser
from tools.common.flag_types import positive_int
from tools.common.mapping_flags import add_mapping_flags
from tools.common.run import run_experiment

parser = experiment_parser(__file__, __doc__, lr=0.02, epoch=20, seed=1234, batch_size=256)
parser.add_argument("--rank", type=positive_int, default=4, help="rank of the prompt in each channel; default 4")
add_mapping_flags(parser, "lp", "lp", "full", also=("--output",))


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_network(args.network, run, num_classes=0 if args.mapping == "lp" else None)
    prompt = LowRankVisualPrompt(network.input_size, args.rank)
    num_source, kind = len(network.class_names), ALL_MAPPINGS[args.mapping].kind  # for lp the features are the sources
    mapping = empty_mapping(kind, num_source, dataset.num_classes, args.sources)
    model = Prompted(prompt, network, mapping)

    resize = [v2.Resize((network.input_size, network.input_size))]
    data = load_data(dataset, run, train=resize, eval=resize)

    learns = [*prompt.parameters(), *mapping.parameters()]
    optimizer = torch.optim.SGD(learns, lr=args.lr, momentum=0.9, weight_decay=1e-4, fused=True)
    scheduler = cosine_schedule(optimizer, args.epoch * len(data.train))
    remap = run.remapping(model, data.train)
    return run.fit(model, data, optimizer, scheduler, on_epoch_start=remap, schedule_steps=True)


if __name__ == "__main__":
    run_experiment(train, parser)
