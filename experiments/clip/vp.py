"""VP: the first visual prompt for CLIP, a frame or a patch of learned pixels on the image.

Bahng et al., "Exploring Visual Prompts for Adapting Large-Scale Models", arXiv 2203.17274, 2022, Section 3. The prompt
starts from a standard normal and lives in CLIP's normalised space. With --black-box it learns from CLIP's answers
alone, by SPSA-GC: the baseline of BlackVIP (Oh et al., CVPR 2023).

    python experiments/clip/vp.py --dataset flowers102 --method padding
    python experiments/clip/vp.py --clip-model ViT-B-16-quickgelu --dataset eurosat --shots 16 --black-box --budget 5000
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from algorithms.training import cosine_schedule
from algorithms.zeroth_order import SPSA_GC, gain_schedule
from data.loaders import load_data, read_dataset
from models.black_box import BlackBox
from models.clip import load_clip
from models.output_mapping import one_to_one
from models.prompted import Prompted
from models.visual_prompt import AdditiveVisualPrompt, RandomPatchVisualPrompt, corner, frame, scaled
from tools.common.args import add_template_flag, check_warmup, clip_parser
from tools.common.black_box_flags import add_black_box_flag
from tools.common.flag_types import whole_number, whole_number_in
from tools.common.run import run_experiment

METHODS = {  # side of the input in pixels, size of the prompt in pixels, unit of its values -> the prompt
    "padding": lambda side, size, unit: AdditiveVisualPrompt(frame(side, size), unit),
    "fixed_patch": lambda side, size, unit: AdditiveVisualPrompt(corner(side, size), unit),
    "random_patch": lambda side, size, unit: RandomPatchVisualPrompt(size, side, unit),
}
TEMPLATE = "This is a photo of a {}"

parser = clip_parser(__file__, __doc__, lr=40.0, epoch=1000, batch_size=256)
parser.add_argument("--method", dest="vp_method", choices=METHODS, default="padding", help="default %(default)s")
size = "width of the frame or side of the patch, in pixels of an input of 224; default %(default)s"
parser.add_argument("--prompt-size", type=whole_number_in(1, 224), default=30, help=size)
parser.add_argument("--warmup", type=whole_number, default=1000, help="steps of linear warm-up; default 1000")
add_template_flag(parser, TEMPLATE)
add_black_box_flag(parser, momentum=0.3)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    template = args.template or dataset.text_template or TEMPLATE
    clip = load_clip(args, run, [template], dataset.class_names)
    network = BlackBox(clip, args.budget, args.budget_images, run.pieces) if args.black_box else clip
    side = network.input_size
    prompt = METHODS[args.vp_method](side, scaled(args.prompt_size, side), network.std)
    torch.nn.init.normal_(prompt.program)
    mapping = one_to_one(dataset.num_classes)
    model = Prompted(prompt, network, mapping)

    data = load_data(dataset, run, train=clip.preprocess, eval=clip.preprocess).with_passes(args.passes)

    if args.black_box:
        how = {"momentum": args.momentum, "c": args.c, "gamma": args.gamma, "draws": args.draws}
        optimizer = SPSA_GC(prompt.parameters(), lr=args.lr, **how)
        scheduler = gain_schedule(optimizer, alpha=args.alpha)
    else:
        optimizer = torch.optim.SGD(prompt.parameters(), lr=args.lr, momentum=0.9, fused=True)
        steps = args.epoch * len(data.train)
        check_warmup(args.warmup, steps, "steps", typed="warmup" in parser.typed)
        scheduler = cosine_schedule(optimizer, steps, args.warmup)
    return run.fit(model, data, optimizer, scheduler, schedule_steps=True)


if __name__ == "__main__":
    run_experiment(train, parser)
