"""Zero-shot CLIP: text prompts only, nothing learns. This baseline is called TP (text prompting).

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, Section 3.1.

    python experiments/clip/zero_shot.py --dataset flowers102 --ensemble
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.loaders import load_data, read_dataset
from models.clip import TEMPLATES, load_clip
from models.output_mapping import one_to_one
from models.prompted import Prompted
from models.visual_prompt import NoVisualPrompt
from tools.common.args import add_template_flag, clip_parser
from tools.common.run import run_experiment

parser = clip_parser(__file__, __doc__, lr=None)
prompts = parser.add_mutually_exclusive_group()
add_template_flag(prompts, TEMPLATES[0])
prompts.add_argument("--ensemble", action="store_true", help="average the embeddings of all 81 templates")


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    templates = TEMPLATES if args.ensemble else [args.template or dataset.text_template or TEMPLATES[0]]
    network = load_clip(args, run, templates, dataset.class_names, ensemble=args.ensemble)
    mapping = one_to_one(dataset.num_classes)
    model = Prompted(NoVisualPrompt(), network, mapping)

    data = load_data(dataset, run, train=network.preprocess, eval=network.preprocess, parts=("test",))

    return run.evaluate(model, data)


if __name__ == "__main__":
    run_experiment(train, parser)
