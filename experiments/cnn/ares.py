"""AReS: a service is asked once about each training image; then a local network that learned its answers is prompted.

"Prime Once, then Reprogram Locally", CVPR 2026, arXiv 2604.01474. First a new last layer of the local --network learns
the probabilities that --service gives for the training images. Then BLM+-VP trains a prompt on that network, as in
blmp_vp.py. The service is asked no more, not even for the test.

    python experiments/cnn/ares.py --service resnet50 --network resnet18 --dataset flowers102 --shots 16
    python experiments/cnn/ares.py --service http://localhost:8000/ --network resnet18 --dataset flowers102
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
from models.networks import load_network
from models.output_mapping import WeightLabels
from models.primed import PrimedNetwork
from models.prompted import Prompted
from models.services import load_service, own_labels, zero_shot
from models.visual_prompt import ExpansiveVisualPrompt
from tools.common.args import add_warmup_flag, experiment_parser
from tools.common.mapping_flags import add_bayesian_flags, add_iteration_flags
from tools.common.network_names import network_name
from tools.common.priming import Priming, fit_primed
from tools.common.run import run_experiment
from tools.common.service_flags import add_priming_flags, add_service_flag

parser = experiment_parser(__file__, __doc__, lr=0.01, batch_size=256)
add_service_flag(parser)
add_priming_flags(parser)
add_bayesian_flags(parser, plus=True)
add_iteration_flags(parser)
add_warmup_flag(parser)


def train(args, run):
    few = read_dataset(args.dataset, run)
    dataset = read_dataset(args.dataset, run, whole=True) if args.second_stage_data == "full" else few
    encoder = load_network(args.network, run, num_classes=0)
    service = load_service(args.service, run)
    run.identify(service_weights=service.fingerprint)
    network = PrimedNetwork(encoder, service.class_names, service.questions)
    prompt = ExpansiveVisualPrompt(dataset.image_size, network.input_size, dataset.inner_mask)
    mapping = WeightLabels(len(network.class_names), dataset.num_classes)
    model = Prompted(prompt, network, mapping)
    own = None if args.fallback is None else own_labels(service.class_names, dataset.class_names)

    service_view, own_view, resize = (
        [v2.Resize((size, size))] for size in (service.input_size, network.input_size, dataset.image_size)
    )
    asked, seen = (partial(load_data, run=run, train=view, eval=view) for view in (service_view, own_view))
    priming = Priming(service, few, asked, seen, alone=partial(zero_shot, own_labels=own))
    data = load_data(dataset, run, train=resize, eval=resize)

    optimizer = torch.optim.Adam(prompt.parameters(), lr=args.lr, fused=True)
    scheduler = step_schedule(optimizer, args.epoch, warmup=args.warmup)

    def remap(epoch):
        if epoch % args.mapping_interval == 0:
            masses = run.count_predictions(model, data.train, top=top_fraction(dataset.num_classes, args.top_fraction))
            mapping.set(bayesian_label_mapping(masses, args.smoothing))

    run.tell(service=network_name(args.service))
    return fit_primed(run, priming, model, data, optimizer, scheduler, remap)


if __name__ == "__main__":
    run_experiment(train, parser)
