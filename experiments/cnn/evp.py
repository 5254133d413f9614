"""EVP on ImageNet networks: a visual prompt that pads the shrunken image, and a many-to-one label mapping.

Wu et al., "Unleashing the Power of Visual Prompting at the Pixel Level", TMLR 2024, its section on non-CLIP models:
each target class gets the source class that the network, with the prompt at its start (zero), predicts most often for
its training images. The released code maps at batch size 1 and without normalisation; this is what the paper describes.

    python experiments/cnn/evp.py --network resnet50_v1 --dataset cifar100
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.common.command import run_command  # first, for Ctrl-C during the imports

# isort: split

from algorithms.label_mapping import (
    PredictionCounter,
    count_predictions,
    describe_mapping,
    majority_label_mapping,
)
from algorithms.normalized_gradient import NormalizedGradient
from algorithms.training import cosine_schedule, fit, progress
from data.catalog import find_dataset
from data.loaders import build_loader, build_loaders
from data.transforms import Transform
from models.networks import find_network, load_network
from models.prompted import Prompted
from models.visual_prompt import PaddedVisualPrompt, frame
from tools.common.args import add_evp_flags, evp_geometry, experiment_parser
from tools.common.plots import prompted_figures
from tools.common.run import Run


def main(argv: list[str] | None = None) -> dict:
    parser = experiment_parser(__file__, __doc__, lr=70.0, epoch=1000, seed=42, batch_size=256)
    add_evp_flags(parser)
    args = parser.parse_args(argv)
    dataset, row = find_dataset(args.dataset), find_network(args.network)
    with Run(args, parser) as run:
        if run.result:
            return run.report()
        splits = dataset.read(**run.selection)
        num_source, num_target = len(row.class_names), len(splits.class_names)
        size, width = evp_geometry(args, row.input_size)
        train_transform = Transform(size, shorter=True, bicubic=True, random=not args.no_diversity)
        transform = Transform(size, shorter=True, bicubic=True)
        loading = run.loading(dataset.batch_size)
        loaders = build_loaders(splits, train_transform=train_transform, eval_transform=transform, **loading)
        mapped = build_loader(splits.train, transform, f"{splits.name} train", **loading)  # not cropped at random
        network = load_network(args.network, **run.placement)

        prompt = PaddedVisualPrompt(size, frame(row.input_size, width))
        model = Prompted(prompt, network, num_target).to(run.device)

        def remap(epoch: int) -> dict:
            if epoch > 0:
                return {}
            batches = progress(mapped, "mapping")
            counts = count_predictions(model.source_logits, batches, num_source, num_target)
            mapping = majority_label_mapping(counts)
            worth = describe_mapping(counts, mapping)
            return {"remapped": model.set_mapping(mapping), "source_classes": len(mapping.unique()), **worth}

        optimizer = NormalizedGradient(prompt.program, prompt.mask, lr=args.lr, norm=args.gradient_norm)
        scheduler = cosine_schedule(optimizer, args.epoch)
        counter = PredictionCounter(num_source, num_target).watch(network)
        run.figures = prompted_figures(model, counter, loaders.test.examples, row.class_names, splits.class_names)
        checkpoint = {"visual_prompt_dict": prompt, "mapping_sequence": model.mapping}
        run.track(splits, transform, optimizer_dict=optimizer, scheduler_dict=scheduler, **checkpoint)
        fit(model, loaders, optimizer, scheduler, on_epoch_start=remap, observe_test=counter, **run.fitting)
        return run.finish(mapping=model.named_mapping(row.class_names, splits.class_names))


if __name__ == "__main__":
    run_command(main)
