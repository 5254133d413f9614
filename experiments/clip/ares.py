"""AReS with CLIP as the service: it is asked once about each training image; then a local network is prompted.

"Prime Once, then Reprogram Locally", CVPR 2026, arXiv 2604.01474. As experiments/cnn/ares.py, but --clip-model is the
service: its probabilities for one text prompt a class are what a new last layer of the local --network learns.

    python experiments/clip/ares.py --network timm:vit_base_patch16_224 --dataset flowers102 --shots 16
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torchvision.transforms import v2

from algorithms.label_mapping import bayesian_label_mapping
from algorithms.mapping_rules import top_fraction
from algorithms.training import step_schedule
from data.loaders import load_data, read_dataset
from models.clip import load_clip
from models.networks import load_network
from models.output_mapping import WeightLabels
from models.primed import PrimedNetwork
from models.prompted import Prompted
from models.services import LocalService, without_identity, zero_shot
from models.visual_prompt import ExpansiveVisualPrompt
from tools.common.args import add_warmup_flag, experiment_parser
from tools.common.mapping_flags import add_bayesian_flags, add_iteration_flags
from tools.common.priming import Priming, fit_primed
from tools.common.run import run_experiment
from tools.common.service_flags import add_clip_service_flags, add_priming_flags

TEMPLATE = "This is a photo of a {}."

parser = experiment_parser(__file__, __doc__, lr=0.01, auto_bfloat16=False, batch_size=256)
add_clip_service_flags(parser, TEMPLATE)
add_priming_flags(parser)
add_bayesian_flags(parser, plus=True)
add_iteration_flags(parser)
add_warmup_flag(parser)


def train(args, run):
    few = read_dataset(args.dataset, run)
    dataset = read_dataset(args.dataset, run, whole=True) if args.second_stage_data == "full" else few
    encoder = load_network(args.network, run, num_classes=0)
    template = args.template or dataset.text_template or TEMPLATE
    clip = load_clip(args, without_identity(run), [template], dataset.class_names)
    service = LocalService(clip, run)
    run.identify(service_weights=service.fingerprint)
    network = PrimedNetwork(encoder, service.class_names, service.questions)
    prompt = ExpansiveVisualPrompt(dataset.image_size, network.input_size, dataset.inner_mask)
    mapping = WeightLabels(len(network.class_names), dataset.num_classes)
    model = Prompted(prompt, network, mapping)
    own = range(dataset.num_classes)

    own_view, resize = ([v2.Resize((size, size))] for size in (network.input_size, dataset.image_size))
    asked, seen = (partial(load_data, run=run, train=view, eval=view) for view in (clip.preprocess, own_view))
    priming = Priming(service, few, asked, seen, alone=partial(zero_shot, own_labels=own))
    data = load_data(dataset, run, train=resize, eval=resize)

    optimizer = torch.optim.Adam(prompt.parameters(), lr=args.lr, fused=True)
    scheduler = step_schedule(optimizer, args.epoch, warmup=args.warmup)

    def remap(epoch):
        if epoch % args.mapping_interval == 0:
            masses = run.count_predictions(model, data.train, top=top_fraction(dataset.num_classes, args.top_fraction))
            mapping.set(bayesian_label_mapping(masses, args.smoothing))

    run.tell(service=args.service)
    return fit_primed(run, priming, model, data, optimizer, scheduler, remap)


if __name__ == "__main__":
    run_experiment(train, parser)
