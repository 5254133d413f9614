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
    describe_mapping,
    frequency_label_mapping,
)
from algorithms.training import cosine_schedule, fit, progress
from data.catalog import find_dataset
from data.loaders import build_loaders
from data.transforms import Transform
from models.clip import TEMPLATES, load_clip, text_prompts
from models.clip_source import find_clip
from models.prompted import Prompted
from models.visual_prompt import AdditiveVisualPrompt, frame
from tools.common.args import add_mapping_flags, clip_parser
from tools.common.flag_types import scaled
from tools.common.plots import prompted_figures
from tools.common.run import Run


def main(argv: list[str] | None = None) -> dict:
    parser = clip_parser(__file__, __doc__, lr=40.0)
    add_mapping_flags(parser)
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

        trained = PredictionCounter(num_source, num_target)  # what training predicts, where that makes the next map
        if args.mapping_source == "train":
            trained.watch(network)

        def remap(epoch: int) -> dict:
            counts = trained.take()
            if epoch % args.mapping_interval:
                return {}
            if args.mapping_source == "pass" or epoch == 0:
                batches = progress(loaders.train, "mapping")
                counts = count_predictions(model.source_logits, batches, num_source, num_target)
            mapping = frequency_label_mapping(counts)
            return {"remapped": model.set_mapping(mapping), **describe_mapping(counts, mapping)}

        optimizer = torch.optim.SGD(prompt.parameters(), lr=args.lr, momentum=0.9, fused=True)
        scheduler = cosine_schedule(optimizer, args.epoch * len(loaders.train))
        counter = PredictionCounter(num_source, num_target).watch(network)
        run.figures = prompted_figures(model, counter, loaders.test.examples, texts, splits.class_names)
        checkpoint = {"visual_prompt_dict": prompt, "mapping_sequence": model.mapping, "counter_dict": trained}
        parts = {"optimizer_dict": optimizer, "scheduler_dict": scheduler, **checkpoint}
        run.track(splits, transform, row.settings(TEMPLATES), **parts)
        fitting = {"on_epoch_start": remap, "observe_train": trained, "observe_test": counter, **run.fitting}
        fit(model, loaders, optimizer, scheduler, schedule_steps=True, **fitting)
        mapping = model.named_mapping(texts, splits.class_names)
        return run.finish(mapping=mapping, mapping_source=args.mapping_source)


if __name__ == "__main__":
    run_command(main)
