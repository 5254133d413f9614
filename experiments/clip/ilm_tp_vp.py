"""ILM-TP-VP: a visual prompt on CLIP, and a text prompt for each class chosen again while it learns.

Chen et al., "Understanding and Improving Visual Prompting: A Label-Mapping Perspective", CVPR 2023, its CLIP section:
the source labels are 81 templates x T classes; iterative label mapping gives each class the text prompt that CLIP, with
the current visual prompt, predicts most often for its training images.

    python experiments/clip/ilm_tp_vp.py --dataset flowers102
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
    frequency_label_mapping,
    targets_without_predictions,
)
from algorithms.training import cosine_schedule, fit, progress
from data.catalog import find_dataset
from data.loaders import build_loaders
from data.transforms import Transform
from models.clip import TEMPLATES, find_clip, load_clip, text_prompts
from models.prompted import Prompted
from models.visual_prompt import AdditiveVisualPrompt, frame, scaled
from tools.common.args import clip_parser
from tools.common.flag_types import positive_int
from tools.common.plots import prompted_figures
from tools.common.run import Run


def main(argv: list[str] | None = None) -> dict:
    parser = clip_parser(__file__, __doc__, lr=40.0)
    parser.add_argument(
        "--mapping-interval", type=positive_int, default=1, help="re-map every so many epochs; default 1"
    )
    args = parser.parse_args(argv)
    dataset, row = find_dataset(args.dataset), find_clip(args.clip_model, args.pretrained, args.clip_config)
    with Run(args, parser) as run:
        if run.result:
            return run.report()
        splits = dataset.read(**run.selection)
        texts = text_prompts(TEMPLATES, splits.class_names)
        num_source, num_target = len(texts), len(splits.class_names)
        transform = Transform(row.input_size, **row.preprocessing)
        loading = run.loading(dataset.batch_size)
        loaders = build_loaders(splits, train_transform=transform, eval_transform=transform, **loading)
        network = load_clip(row, texts, **run.placement)

        prompt = AdditiveVisualPrompt(frame(row.input_size, scaled(30, row.input_size)), network.std)
        model = Prompted(prompt, network, num_target).to(run.device)

        def remap(epoch: int) -> dict:
            if epoch % args.mapping_interval:
                return {}
            batches = progress(loaders.train, "mapping")
            counts = count_predictions(model.source_logits, batches, num_source, num_target)
            mapping = frequency_label_mapping(counts)
            arbitrary = targets_without_predictions(counts, mapping)
            return {"remapped": model.set_mapping(mapping), "targets_without_predictions": arbitrary}

        optimizer = torch.optim.SGD(prompt.parameters(), lr=args.lr, momentum=0.9)
        scheduler = cosine_schedule(optimizer, args.epoch * len(loaders.train))
        counter = PredictionCounter(num_source, num_target).watch(network)
        run.figures = prompted_figures(model, counter, loaders.test.example, texts, splits.class_names)
        checkpoint = {"visual_prompt_dict": prompt, "mapping_sequence": model.mapping}
        parts = {"optimizer_dict": optimizer, "scheduler_dict": scheduler, **checkpoint}
        run.track(splits, transform, row.settings(TEMPLATES), **parts)
        fitting = {"on_epoch_start": remap, "observe_test": counter, "schedule_steps": True, **run.fitting}
        fit(model, loaders, optimizer, scheduler, **fitting)
        return run.finish(mapping=model.named_mapping(texts, splits.class_names))


if __name__ == "__main__":
    run_command(main)
