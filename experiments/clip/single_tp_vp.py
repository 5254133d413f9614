"""Single-TP-VP: a visual prompt on CLIP, and one text template for all classes.

Chen et al., "Understanding and Improving Visual Prompting: A Label-Mapping Perspective", CVPR 2023, its CLIP section:
the baseline of ILM-TP-VP. Template 0 is "This is a photo of a {}.", 1 to 80 are CLIP's own for ImageNet.

    python experiments/clip/single_tp_vp.py --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.common.command import run_command  # first, for Ctrl-C during the imports

# isort: split

import torch

from algorithms.label_mapping import PredictionCounter
from algorithms.training import cosine_schedule, fit
from data.catalog import find_dataset
from data.loaders import build_loaders
from data.transforms import Transform
from models.clip import TEMPLATES, load_clip, text_prompts
from models.clip_source import find_clip
from models.prompted import Prompted
from models.visual_prompt import AdditiveVisualPrompt, frame
from tools.common.args import clip_parser
from tools.common.flag_types import scaled, whole_number_in
from tools.common.plots import prompted_figures
from tools.common.run import Run


def main(argv: list[str] | None = None) -> dict:
    parser = clip_parser(__file__, __doc__, lr=40.0)
    number = whole_number_in(0, len(TEMPLATES) - 1)
    parser.add_argument("--template-number", type=number, default=0, help="the template, 0 to 80; default 0")
    args = parser.parse_args(argv)
    dataset, row = find_dataset(args.dataset), find_clip(args.clip_model, args.pretrained, args.clip_config)
    with Run(args, parser) as run:
        if run.result:
            return run.report()
        splits = dataset.read(**run.selection)
        templates = (TEMPLATES[args.template_number],)
        texts = text_prompts(templates, splits.class_names)
        transform = Transform(row.input_size, **row.preprocessing)
        loading = run.loading(dataset.batch_size)
        loaders = build_loaders(splits, train_transform=transform, eval_transform=transform, **loading)
        network = load_clip(row, texts, **run.placement)

        prompt = AdditiveVisualPrompt(frame(row.input_size, scaled(30, row.input_size)), network.std)
        model = Prompted(prompt, network, len(texts)).to(run.device)
        model.set_mapping(torch.arange(len(texts)))

        optimizer = torch.optim.SGD(prompt.parameters(), lr=args.lr, momentum=0.9, fused=True)
        scheduler = cosine_schedule(optimizer, args.epoch * len(loaders.train))
        counter = PredictionCounter(len(texts), len(texts)).watch(network)
        run.figures = prompted_figures(model, counter, loaders.test.examples, texts, splits.class_names)
        checkpoint = {"visual_prompt_dict": prompt, "mapping_sequence": model.mapping}
        parts = {"optimizer_dict": optimizer, "scheduler_dict": scheduler, **checkpoint}
        run.track(splits, transform, row.settings(templates), **parts)
        fit(model, loaders, optimizer, scheduler, observe_test=counter, schedule_steps=True, **run.fitting)
        return run.finish(mapping=model.named_mapping(texts, splits.class_names))


if __name__ == "__main__":
    run_command(main)
