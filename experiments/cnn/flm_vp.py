"""FLM-VP: a visual prompt, and a label mapping made once, before training.

Chen et al., "Understanding and Improving Visual Prompting: A Label-Mapping Perspective", CVPR 2023, Section 3:
frequency-based label mapping. Each target class gets the source class that the network, with the prompt at its start
(zero), predicts most often for its training images.

    python experiments/cnn/flm_vp.py --network resnet18 --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torchvision.transforms import v2

from algorithms.label_mapping import frequency_label_mapping
from algorithms.training import step_schedule
from data.loaders import load_data, read_dataset
from models.networks import load_network
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.visual_prompt import ExpansiveVisualPrompt
from tools.common.args import add_warmup_flag, experiment_parser
from tools.common.mapping_flags import add_counts_flag, add_sources_flag
from tools.common.run import run_experiment

parser = experiment_parser(__file__, __doc__, lr=0.01)
add_counts_flag(parser)
add_sources_flag(parser)
add_warmup_flag(parser)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_network(args.network, run)
    prompt = ExpansiveVisualPrompt(dataset.image_size, network.input_size, dataset.inner_mask)
    mapping = SelectLabels(dataset.num_classes, args.sources)
    model = Prompted(prompt, network, mapping)

    resize = [v2.Resize((dataset.image_size, dataset.image_size))]
    data = load_data(dataset, run, train=resize, eval=resize)

    optimizer = torch.optim.Adam(prompt.parameters(), lr=args.lr, fused=True)
    scheduler = step_schedule(optimizer, args.epoch, warmup=args.warmup)

    def remap(epoch):
        if epoch == 0:
            counts = run.count_predictions(model, data.train)
            mapping.set(frequency_label_mapping(counts, args.sources))

    return run.fit(model, data, optimizer, scheduler, on_epoch_start=remap)


if __name__ == "__main__":
    run_experiment(train, parser)
