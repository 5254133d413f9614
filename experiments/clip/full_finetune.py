"""Full fine-tuning of CLIP's image encoder: all its weights and a new last layer learn; the upper baseline.

Both papers' CLIP experiments have this baseline; neither paper states its settings. Here the shorter side is resized to
256 for an input of 224, in the same ratio for other inputs. Training takes a random crop and flip, evaluation takes
CLIP's own preprocessing.

    python experiments/clip/full_finetune.py --dataset flowers102
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torchvision.transforms import v2

from algorithms.distributed import synchronise_batch_norm
from algorithms.training import cosine_schedule
from data.loaders import load_data, read_dataset
from models.clip import load_image_encoder
from models.visual_prompt import scaled
from tools.common.args import clip_parser
from tools.common.run import run_experiment

parser = clip_parser(__file__, __doc__, lr=1e-5)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_image_encoder(args, run, num_classes=dataset.num_classes, frozen=False)
    size, resize = network.input_size, network.preprocess[0]
    larger = v2.Resize([scaled(256, size)] * len(resize.size), resize.interpolation)
    diverse = [larger, v2.RandomCrop(size), v2.RandomHorizontalFlip()]
    data = load_data(dataset, run, train=diverse, eval=network.preprocess)

    model = synchronise_batch_norm(network, run.device)

    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.1, fused=True)
    scheduler = cosine_schedule(optimizer, args.epoch * len(data.train))
    return run.fit(model, data, optimizer, scheduler, schedule_steps=True)


if __name__ == "__main__":
    run_experiment(train, parser)
