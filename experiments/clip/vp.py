"""VP: a visual prompt on CLIP as it was first proposed, a frame around or a patch on the image.

Bahng et al., "Exploring Visual Prompts for Adapting Large-Scale Models", arXiv 2203.17274, 2022, Section 3. The prompt
starts from a standard normal and lives in CLIP's normalised space.

    python experiments/clip/vp.py --dataset flowers102 --method padding
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
from models.clip import load_clip, text_prompts
from models.clip_source import find_clip
from models.prompted import Prompted
from models.visual_prompt import AdditiveVisualPrompt, RandomPatchVisualPrompt, corner, frame
from tools.common.args import add_template_flag, clip_parser
from tools.common.flag_types import scaled, whole_number, whole_number_in
from tools.common.plots import prompted_figures
from tools.common.run import Run

METHODS = {  # side of the input and size of the prompt in pixels, unit of its values -> the prompt
    "padding": lambda side, size, unit: AdditiveVisualPrompt(frame(side, size), unit),
    "fixed_patch": lambda side, size, unit: AdditiveVisualPrompt(corner(side, size), unit),
    "random_patch": lambda side, size, unit: RandomPatchVisualPrompt(size, side, unit),
}


def main(argv: list[str] | None = None) -> dict:
    parser = clip_parser(__file__, __doc__, lr=40.0, epoch=1000, batch_size=256)
    parser.add_argument("--method", dest="vp_method", choices=METHODS, default="padding", help="default %(default)s")
    size = "width of the frame or side of the patch, in pixels of an input of 224; default %(default)s"
    parser.add_argument("--prompt-size", type=whole_number_in(1, 224), default=30, help=size)
    parser.add_argument("--warmup", type=whole_number, default=1000, help="steps of linear warm-up; default 1000")
    add_template_flag(parser, "This is a photo of a {}")
    args = parser.parse_args(argv)
    dataset, row = find_dataset(args.dataset), find_clip(args.clip_model, args.pretrained, args.clip_config)
    with Run(args, parser) as run:
        if run.result:
            return run.report()
        splits = dataset.read(**run.selection)
        template = args.template or dataset.text_template or "This is a photo of a {}"
        texts = text_prompts([template], splits.class_names)
        transform = Transform(row.input_size, **row.preprocessing)
        loading = run.loading(dataset.batch_size)
        loaders = build_loaders(splits, train_transform=transform, eval_transform=transform, **loading)
        network = load_clip(row, texts, **run.placement)

        prompt = METHODS[args.vp_method](row.input_size, scaled(args.prompt_size, row.input_size), network.std)
        torch.nn.init.normal_(prompt.program)
        model = Prompted(prompt, network, len(texts)).to(run.device)
        model.set_mapping(torch.arange(len(texts)))

        optimizer = torch.optim.SGD(prompt.parameters(), lr=args.lr, momentum=0.9, fused=True)
        scheduler = cosine_schedule(optimizer, args.epoch * len(loaders.train), args.warmup)
        counter = PredictionCounter(len(texts), len(texts)).watch(network)
        run.figures = prompted_figures(model, counter, loaders.test.examples, texts, splits.class_names)
        checkpoint = {"visual_prompt_dict": prompt, "mapping_sequence": model.mapping}
        parts = {"optimizer_dict": optimizer, "scheduler_dict": scheduler, **checkpoint}
        run.track(splits, transform, row.settings([template]), **parts)
        fit(model, loaders, optimizer, scheduler, observe_test=counter, schedule_steps=True, **run.fitting)
        return run.finish(mapping=model.named_mapping(texts, splits.class_names))


if __name__ == "__main__":
    run_command(main)
