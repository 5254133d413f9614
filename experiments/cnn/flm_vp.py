"""FLM-VP: a visual prompt, and a label mapping made once, before it learns.

Chen et al., "Understanding and Improving Visual Prompting: A Label-Mapping Perspective", CVPR 2023, Section 3:
frequency-based label mapping. Each target class gets the source class that the network, with the prompt at its start
(zero), predicts most often for its training images.

    python experiments/cnn/flm_vp.py --network resnet18 --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.common.command import run_command  # first, for Ctrl-C during the imports

# isort: split

import torch

from algorithms.label_mapping import (
    PredictionCounter,
    count_predictions,
    describe_mapping,
    frequency_label_mapping,
)
from algorithms.training import fit, progress, step_schedule
from data.catalog import find_dataset
from data.loaders import build_loaders
from data.transforms import Transform
from models.networks import find_network, load_network
from models.prompted import Prompted
from models.visual_prompt import ExpansiveVisualPrompt
from tools.common.args import experiment_parser
from tools.common.plots import prompted_figures
from tools.common.run import Run


def main(argv: list[str] | None = None) -> dict:
    parser = experiment_parser(__file__, __doc__, lr=0.01)
    args = parser.parse_args(argv)
    dataset, row = find_dataset(args.dataset), find_network(args.network)
    with Run(args, parser) as run:
        if run.result:
            return run.report()
        splits = dataset.read(**run.selection)
        num_source, num_target = len(row.class_names), len(splits.class_names)
        row.require(args.dataset, dataset.image_size, num_target)
        transform = Transform(dataset.image_size)
        loading = run.loading(dataset.batch_size)
        loaders = build_loaders(splits, train_transform=transform, eval_transform=transform, **loading)
        network = load_network(args.network, **run.placement)

        prompt = ExpansiveVisualPrompt(dataset.image_size, network.input_size, dataset.inner_mask)
        model = Prompted(prompt, network, num_target).to(run.device)

        def remap(epoch: int) -> dict:
            if epoch > 0:
                return {}
            batches = progress(loaders.train, "mapping")
            counts = count_predictions(model.source_logits, batches, num_source, num_target)
            mapping = frequency_label_mapping(counts)
            return {"remapped": model.set_mapping(mapping), **describe_mapping(counts, mapping)}

        optimizer = torch.optim.Adam(prompt.parameters(), lr=args.lr, fused=True)
        scheduler = step_schedule(optimizer, args.epoch)
        counter = PredictionCounter(num_source, num_target).watch(network)
        run.figures = prompted_figures(model, counter, loaders.test.examples, row.class_names, splits.class_names)
        checkpoint = {"visual_prompt_dict": prompt, "mapping_sequence": model.mapping}
        run.track(splits, transform, optimizer_dict=optimizer, scheduler_dict=scheduler, **checkpoint)
        fit(model, loaders, optimizer, scheduler, on_epoch_start=remap, observe_test=counter, **run.fitting)
        return run.finish(mapping=model.named_mapping(row.class_names, splits.class_names))


if __name__ == "__main__":
    run_command(main)
