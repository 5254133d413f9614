"""Zero-shot CLIP: the text prompts alone, nothing learns; the baseline called TP (text prompting).

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, Section 3.1.

    python experiments/clip/zero_shot.py --dataset flowers102 --ensemble
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.common.command import run_command  # first, for Ctrl-C during the imports

# isort: split

import time

import torch

from algorithms.label_mapping import PredictionCounter
from algorithms.training import evaluate
from data.catalog import find_dataset
from data.loaders import build_loader
from data.transforms import Transform
from models.clip import TEMPLATES, load_clip, text_prompts
from models.clip_source import find_clip
from models.prompted import Prompted
from tools.common.args import add_template_flag, clip_parser
from tools.common.plots import prompted_figures
from tools.common.run import Run


def main(argv: list[str] | None = None) -> dict:
    parser = clip_parser(__file__, __doc__, lr=None)
    prompts = parser.add_mutually_exclusive_group()
    add_template_flag(prompts, TEMPLATES[0])
    prompts.add_argument("--ensemble", action="store_true", help="average the embeddings of all 81 templates")
    args = parser.parse_args(argv)
    dataset, row = find_dataset(args.dataset), find_clip(args.clip_model, args.pretrained, args.clip_config)
    with Run(args, parser) as run:
        if run.result:
            return run.report()
        splits = dataset.read(**run.selection)
        templates = TEMPLATES if args.ensemble else (args.template or dataset.text_template or TEMPLATES[0],)
        texts = text_prompts(templates, splits.class_names)
        transform = Transform(row.input_size, **row.preprocessing)
        loader = build_loader(splits.test, transform, f"{splits.name} test", **run.loading(dataset.batch_size))
        network = load_clip(row, texts, ensemble_of=len(templates), **run.placement)

        num_target = len(splits.class_names)
        model = Prompted(torch.nn.Identity(), network, num_target).to(run.device)
        model.set_mapping(torch.arange(num_target))

        counter = PredictionCounter(num_target, num_target).watch(network)
        source_names = splits.class_names if args.ensemble else texts
        figures = prompted_figures(model, counter, loader.examples, source_names, splits.class_names)
        run.figures = {"mapping": figures["mapping"]}
        checkpoint = {"visual_prompt_dict": model.prompt, "mapping_sequence": model.mapping}
        run.track(splits, transform, row.settings(templates, ensemble=args.ensemble), **checkpoint)
        if not run.log.records:  # else stopped just before its end
            begin = time.perf_counter()
            result = evaluate(model, loader, observe=counter, description="test")
            seconds = {"seconds": time.perf_counter() - begin}
            run.end_epoch(0, {f"test_{name}": value for name, value in result.items()} | seconds)
        return run.finish()


if __name__ == "__main__":
    run_command(main)
