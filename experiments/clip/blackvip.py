"""BlackVIP: pixels that a small decoder makes of each image, learned from CLIP's answers alone.

Oh et al., "BlackVIP: Black-Box Visual Prompting for Robust Transfer Learning", CVPR 2023. The decoder sees features of
a frozen encoder, which is not the black box, and learned values: 9,920 are learned in all with the paper's encoder.
Training is SPSA-GC; a step asks twice for each of --draws. --budget ends training after so many questions.

    python experiments/clip/blackvip.py --clip-model ViT-B-16-quickgelu --dataset eurosat --shots 16 --val-shots 4
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from torchvision.transforms import v2

from algorithms.zeroth_order import SPSA_GC, gain_schedule
from data.loaders import load_data, read_dataset
from models.black_box import BlackBox
from models.blackvip import CoordinatedVisualPrompt
from models.clip import load_clip
from models.output_mapping import one_to_one
from models.prompted import Prompted
from tools.common.args import add_template_flag, clip_parser
from tools.common.black_box_flags import add_budget_flags, add_spsa_flags
from tools.common.flag_types import network as encoder_name
from tools.common.flag_types import positive_float
from tools.common.run import run_experiment

TEMPLATE = "This is a photo of a {}"

parser = clip_parser(__file__, __doc__, lr=0.01, epoch=250, batch_size=128)
add_spsa_flags(parser)
strength = "factor of the pixels before they are added, the paper's p_eps; default %(default)s"
parser.add_argument("--strength", type=positive_float, default=0.3, help=strength)
encoder = "whose features the decoder sees, named as a --network; default %(default)s"
parser.add_argument("--encoder", type=encoder_name, default="timm:vit_base_patch16_224.mae", help=encoder)
add_budget_flags(parser)
add_template_flag(parser, TEMPLATE)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    template = args.template or dataset.text_template or TEMPLATE
    clip = load_clip(args, run, [template], dataset.class_names)
    network = BlackBox(clip, args.budget, args.budget_images, run.pieces)
    side = network.input_size
    prompt = CoordinatedVisualPrompt(side, network.mean, network.std, args.strength, args.encoder)
    run.identify(encoder_weights=prompt.encoder_weights)
    mapping = one_to_one(dataset.num_classes)
    model = Prompted(prompt, network, mapping)

    diverse = [v2.RandomResizedCrop(side, interpolation=v2.InterpolationMode.BICUBIC), v2.RandomHorizontalFlip()]
    data = load_data(dataset, run, train=diverse, eval=clip.preprocess).with_passes(args.passes)

    how = {"momentum": args.momentum, "c": args.c, "gamma": args.gamma, "draws": args.draws}
    optimizer = SPSA_GC(prompt.parameters(), lr=args.lr, **how)
    scheduler = gain_schedule(optimizer, alpha=args.alpha)
    return run.fit(model, data, optimizer, scheduler, schedule_steps=True)


if __name__ == "__main__":
    run_experiment(train, parser)
