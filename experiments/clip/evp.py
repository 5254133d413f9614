"""EVP: a visual prompt on CLIP that pads the shrunken image, with input diversity and normalised gradients.

Wu et al., "Unleashing the Power of Visual Prompting at the Pixel Level", TMLR 2024, Section 3. Its ablations are flags:
--placement add, --gradient-norm none, --no-diversity.

    python experiments/clip/evp.py --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from torchvision.transforms import v2

from algorithms.normalized_gradient import NormalizedGradient
from algorithms.training import cosine_schedule
from data.loaders import load_data, read_dataset
from models.clip import load_clip
from models.output_mapping import one_to_one
from models.prompted import Prompted
from models.visual_prompt import PaddedVisualPrompt, evp_sizes, frame
from tools.common.args import add_template_flag, clip_parser
from tools.common.prompt_flags import add_evp_flags
from tools.common.run import run_experiment

TEMPLATE = "this is a photo of a {}"

parser = clip_parser(__file__, __doc__, lr=70.0, epoch=1000, seed=42, batch_size=256)
add_evp_flags(parser)
add_template_flag(parser, TEMPLATE)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    template = args.template or dataset.text_template or TEMPLATE
    network = load_clip(args, run, [template], dataset.class_names)
    size, width = evp_sizes(network.input_size, args.prompt_size, args.image_size, on_top=args.placement == "add")
    prompt = PaddedVisualPrompt(size, frame(network.input_size, width))
    mapping = one_to_one(dataset.num_classes)
    model = Prompted(prompt, network, mapping)

    resize, centre = v2.Resize(size, v2.InterpolationMode.BICUBIC), [v2.CenterCrop(size)]
    diverse = [v2.RandomCrop(size), v2.RandomHorizontalFlip()]
    data = load_data(dataset, run, train=[resize, *(centre if args.no_diversity else diverse)], eval=[resize, *centre])

    optimizer = NormalizedGradient(prompt.program, prompt.mask, lr=args.lr, norm=args.gradient_norm)
    scheduler = cosine_schedule(optimizer, args.epoch)
    return run.fit(model, data, optimizer, scheduler)


if __name__ == "__main__":
    run_experiment(train, parser)
