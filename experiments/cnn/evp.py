"""EVP on ImageNet networks: a visual prompt that pads the shrunken image, and a many-to-one label mapping.

Wu et al., "Unleashing the Power of Visual Prompting at the Pixel Level", TMLR 2024, its section on non-CLIP models:
each target class gets the source class that the network, with the prompt at its start (zero), predicts most often for
its training images. The released code maps at batch size 1 and without normalisation; this script follows the paper.

    python experiments/cnn/evp.py --network resnet50_v1 --dataset cifar100
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from torchvision.transforms import v2

from algorithms.label_mapping import majority_label_mapping
from algorithms.normalized_gradient import NormalizedGradient
from algorithms.training import cosine_schedule
from data.loaders import load_data, read_dataset
from models.networks import load_network
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.visual_prompt import PaddedVisualPrompt, evp_sizes, frame
from tools.common.args import experiment_parser
from tools.common.prompt_flags import add_evp_flags
from tools.common.run import run_experiment

parser = experiment_parser(__file__, __doc__, lr=70.0, auto_bfloat16=False, epoch=1000, seed=42, batch_size=256)
add_evp_flags(parser)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_network(args.network, run)
    size, width = evp_sizes(network.input_size, args.prompt_size, args.image_size, on_top=args.placement == "add")
    prompt = PaddedVisualPrompt(size, frame(network.input_size, width))
    mapping = SelectLabels(dataset.num_classes)
    model = Prompted(prompt, network, mapping)

    resize, centre = v2.Resize(size, v2.InterpolationMode.BICUBIC), [v2.CenterCrop(size)]
    diverse = [v2.RandomCrop(size), v2.RandomHorizontalFlip()]
    data = load_data(dataset, run, train=[resize, *(centre if args.no_diversity else diverse)], eval=[resize, *centre])

    optimizer = NormalizedGradient(prompt.program, prompt.mask, lr=args.lr, norm=args.gradient_norm)
    scheduler = cosine_schedule(optimizer, args.epoch)

    def remap(epoch):
        if epoch == 0:
            counts = run.count_predictions(model, data.train_as_eval)  # not cropped at random
            mapping.set(majority_label_mapping(counts))
            return {"source_classes": len(mapping.index.unique())}

    return run.fit(model, data, optimizer, scheduler, on_epoch_start=remap)


if __name__ == "__main__":
    run_experiment(train, parser)
