"""EVP: a visual prompt on CLIP that pads the shrunken image, with input diversity and normalised gradients.

Wu et al., "Unleashing the Power of Visual Prompting at the Pixel Level", TMLR 2024, Section 3. Its ablations are flags:
--placement add, --gradient-norm none, --no-diversity.

    python experiments/clip/evp.py --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.common.command import run_command  # first, for Ctrl-C during the imports

# isort: split

import torch

from algorithms.label_mapping import PredictionCounter
from algorithms.normalized_gradient import NormalizedGradient
from algorithms.training import cosine_schedule, fit
from data.catalog import find_dataset
from data.loaders import build_loaders
from data.transforms import Transform
from models.clip import load_clip, text_prompts
from models.clip_source import find_clip
from models.prompted import Prompted
from models.visual_prompt import PaddedVisualPrompt, frame
from tools.common.args import add_evp_flags, add_template_flag, clip_parser, evp_geometry
from tools.common.plots import prompted_figures
from tools.common.run import Run


def main(argv: list[str] | None = None) -> dict:
    parser = clip_parser(__file__, __doc__, lr=70.0, epoch=1000, seed=42, batch_size=256)
    add_evp_flags(parser)
    add_template_flag(parser, "this is a photo of a {}")
    args = parser.parse_args(argv)
    dataset, row = find_dataset(args.dataset), find_clip(args.clip_model, args.pretrained, args.clip_config)
    with Run(args, parser) as run:
        if run.result:
            return run.report()
        splits = dataset.read(**run.selection)
        template = args.template or dataset.text_template or "this is a photo of a {}"
        texts = text_prompts([template], splits.class_names)
        size, width = evp_geometry(args, row.input_size)
        train_transform = Transform(size, shorter=True, bicubic=True, random=not args.no_diversity)
        transform = Transform(size, shorter=True, bicubic=True)
        loading = run.loading(dataset.batch_size)
        loaders = build_loaders(splits, train_transform=train_transform, eval_transform=transform, **loading)
        network = load_clip(row, texts, **run.placement)

        prompt = PaddedVisualPrompt(size, frame(row.input_size, width))
        model = Prompted(prompt, network, len(texts)).to(run.device)
        model.set_mapping(torch.arange(len(texts)))

        optimizer = NormalizedGradient(prompt.program, prompt.mask, lr=args.lr, norm=args.gradient_norm)
        scheduler = cosine_schedule(optimizer, args.epoch)
        counter = PredictionCounter(len(texts), len(texts)).watch(network)
        run.figures = prompted_figures(model, counter, loaders.test.examples, texts, splits.class_names)
        checkpoint = {"visual_prompt_dict": prompt, "mapping_sequence": model.mapping}
        parts = {"optimizer_dict": optimizer, "scheduler_dict": scheduler, **checkpoint}
        run.track(splits, transform, row.settings([template]), **parts)
        fit(model, loaders, optimizer, scheduler, observe_test=counter, **run.fitting)
        return run.finish(mapping=model.named_mapping(texts, splits.class_names))


if __name__ == "__main__":
    run_command(main)
