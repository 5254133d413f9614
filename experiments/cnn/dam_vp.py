"""DAM-VP: a visual prompt for each cluster of images; an image gets the prompt of the nearest cluster.

Huang et al., "Diversity-Aware Meta Visual Prompting", CVPR 2023, without its meta-training: each prompt starts with
normal values. The network's features of the first --cluster-images training images make the clusters. A class's logit
is one of the features: those that vary most over images of noise. With --head it is that of a new linear layer.

    python experiments/cnn/dam_vp.py --network resnet50_v1 --dataset dtd
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torchvision.transforms import v2

from algorithms.clusters import cluster_means, first_features
from algorithms.label_mapping import most_varied_features
from algorithms.training import cosine_schedule
from data.loaders import load_data, read_dataset
from models.networks import load_network
from models.output_mapping import LinearLabels, SelectLabels
from models.prompted import Prompted
from models.several_prompts import PromptsOfClusters
from models.visual_prompt import AdditiveVisualPrompt, frame, scaled
from tools.common.args import experiment_parser
from tools.common.prompt_flags import add_cluster_flags, until
from tools.common.run import run_experiment

parser = experiment_parser(__file__, __doc__, lr=40.0, epoch=50, seed=2023, batch_size=128)
add_cluster_flags(parser)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_network(args.network, run, num_classes=0)  # its features are the sources
    size, num_source = network.input_size, len(network.class_names)
    larger = v2.Resize(scaled(256, size))
    diverse = [larger, v2.RandomCrop(size), v2.RandomHorizontalFlip()]
    data = load_data(dataset, run, train=diverse, eval=[larger, v2.CenterCrop(size)])

    features_of = run.pieces.outputs(network)
    prototypes = (run.earlier("visual_prompt_dict") or {}).get("prototypes")  # a continued run keeps its clusters
    is_new = prototypes is None
    if is_new:
        features = first_features(features_of, data.train.whole, args.cluster_images)
        prototypes, sizes = cluster_means(features, **until(args.clusters))
        print(f"Clusters of {len(features)} training images: {len(sizes)}. The largest has {int(sizes.max())}.")

    one = AdditiveVisualPrompt(frame(size, scaled(30, size)), network.std)
    prompt = PromptsOfClusters(one, len(prototypes), num_source)
    prompt.prototypes.copy_(prototypes)
    torch.nn.init.normal_(prompt.program)
    mapping = LinearLabels(num_source, dataset.num_classes) if args.head else SelectLabels(dataset.num_classes)
    model = Prompted(prompt, network, mapping)
    if is_new and not args.head:
        noise = (network.mean + network.std * torch.randn(64, 3, size, size).to(run.device) for _ in range(8))
        mapping.set(most_varied_features(torch.cat([*map(features_of, noise)]), dataset.num_classes))

    groups = [{"params": prompt.parameters()}]
    if args.head:
        groups += [{"params": mapping.parameters(), "lr": args.head_lr}]
    optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=0.9, fused=True)
    steps = args.epoch * len(data.train)
    scheduler = cosine_schedule(optimizer, steps, warmup=steps // 5)
    return run.fit(model, data, optimizer, scheduler, schedule_steps=True)


if __name__ == "__main__":
    run_experiment(train, parser)
