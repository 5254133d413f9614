"""BAR on CLIP: pixels around the image, learned from answers alone, by random directions.

Tsai et al., "Transfer Learning without Knowing: Reprogramming Black-box Machine Learning Models with Scarce Data and
Limited Resources", ICML 2020, as BlackVIP (CVPR 2023) compares with it: one text prompt a class. A step asks once more
than --draws; --budget ends training after so many questions.

    python experiments/clip/bar.py --clip-model ViT-B-16-quickgelu --dataset eurosat --shots 16 --budget 5000
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torchvision.transforms import v2

from algorithms.losses import focal_loss
from algorithms.zeroth_order import RandomGradientFree, polynomial_schedule
from data.loaders import load_data, read_dataset
from models.black_box import BlackBox
from models.clip import load_clip
from models.output_mapping import one_to_one
from models.prompted import Prompted
from models.visual_prompt import ExpansiveVisualPrompt, scaled
from tools.common.args import add_template_flag, clip_parser
from tools.common.black_box_flags import add_bar_flags
from tools.common.run import run_experiment

TEMPLATE = "This is a photo of a {}"

parser = clip_parser(__file__, __doc__, lr=10.0, epoch=250, batch_size=128)
add_bar_flags(parser)
add_template_flag(parser, TEMPLATE)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    template = args.template or dataset.text_template or TEMPLATE
    clip = load_clip(args, run, [template], dataset.class_names)
    network = BlackBox(clip, args.budget, args.budget_images, run.pieces)
    size = min(network.input_size, scaled(args.image_size, network.input_size))
    prompt = ExpansiveVisualPrompt(size, network.input_size)
    torch.nn.init.normal_(prompt.program)
    mapping = one_to_one(dataset.num_classes)
    model = Prompted(prompt, network, mapping)

    bicubic = v2.InterpolationMode.BICUBIC
    diverse = [v2.RandomResizedCrop(size, interpolation=bicubic), v2.RandomHorizontalFlip()]
    data = load_data(dataset, run, train=diverse, eval=[v2.Resize(size, bicubic), v2.CenterCrop(size)])
    data = data.with_passes(args.passes)

    optimizer = RandomGradientFree(prompt.parameters(), lr=args.lr, beta=args.beta, draws=args.draws)
    steps = network.questions.steps(optimizer.evaluations, data.train, args.epoch)
    scheduler = polynomial_schedule(optimizer, steps, args.least_lr)
    return run.fit(model, data, optimizer, scheduler, schedule_steps=True, loss=focal_loss)


if __name__ == "__main__":
    run_experiment(train, parser)
