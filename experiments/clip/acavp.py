"""ACAVP on CLIP: a visual prompt that moves, resizes and recolours the image and adds pixels beside it.

"ACAVP" (affine, colour and additive visual prompting), NeurIPS 2025, arXiv 2510.07823. Training images go through
TrivialAugment. Each of the six parts of the prompt has its gradient divided by its norm. The affine and the colour
parts are then clipped to 0.001 for each element, which nearly always makes them steps of one length.

The step is the formula's: of length --lr for the added pixels, and of at most 0.001 --transform-lr for each element of
the others, before momentum. The released code multiplies it by the images of a batch and divides it by the loss scale
of float16 training. docs/methods.md has the flags that make its first steps.

    python experiments/clip/acavp.py --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from torchvision.transforms import v2

from algorithms.normalized_gradient import NormalizedGradient
from algorithms.training import cosine_schedule
from data.loaders import load_data, read_dataset
from models.affine_prompt import AffineColourVisualPrompt
from models.clip import load_clip
from models.output_mapping import one_to_one
from models.prompted import Prompted
from tools.common.args import add_template_flag, clip_parser
from tools.common.flag_types import positive_float
from tools.common.run import run_experiment

TEMPLATE = "This is a photo of a {}"

parser = clip_parser(__file__, __doc__, lr=40.0, epoch=1000, batch_size=256, augment="trivial")
rate = "learning rate of the affine and colour parts; default: --lr"
parser.add_argument("--transform-lr", type=positive_float, help=rate)
add_template_flag(parser, TEMPLATE)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    template = args.template or dataset.text_template or TEMPLATE
    network = load_clip(args, run, [template], dataset.class_names)
    size = network.input_size
    prompt = AffineColourVisualPrompt(size)
    mapping = one_to_one(dataset.num_classes)
    model = Prompted(prompt, network, mapping)

    resize = v2.Resize(size, v2.InterpolationMode.BICUBIC)
    diverse = [resize, v2.RandomHorizontalFlip(), v2.RandomCrop(size)]
    data = load_data(dataset, run, train=diverse, eval=network.preprocess)

    transform = {"params": prompt.moving(), "lr": args.transform_lr or args.lr, "clip": 0.001}
    optimizer = NormalizedGradient([{"params": [prompt.program]}, transform], lr=args.lr, momentum=0.9)
    scheduler = cosine_schedule(optimizer, args.epoch * len(data.train))
    return run.fit(model, data, optimizer, scheduler, schedule_steps=True)


if __name__ == "__main__":
    run_experiment(train, parser)
