"""What the benchmark compares: one model, computed in several ways on the same generated photographs."""

import argparse
import os
from collections.abc import Callable
from copy import deepcopy
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from algorithms.label_mapping import frequency_label_mapping
from algorithms.predictions import PredictionCounter, count_predictions
from algorithms.training import evaluate, train_one_epoch
from data.folder import Folder
from data.loaders import build_data
from models.network_source import find_network
from models.networks import Execution, Network
from models.output_mapping import one_to_one
from models.prompted import Prompted
from models.visual_prompt import ExpansiveVisualPrompt

ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "efficientnet_lite0": lambda: timm.create_model("tf_efficientnet_lite0"),
    "resnet18": torchvision.models.resnet18,
    "resnet50": torchvision.models.resnet50,
    "instagram": lambda: timm.create_model("resnext101_32x8d"),
}
PATHS: dict[str, dict[str, bool]] = {  # a path of the benchmark -> what differs in its `Execution`
    "plain": {"plain": True},
    "dense": {"share_border": False, "cuda_graph": False},
    "shared": {"share_border": True, "cuda_graph": False},
    "graphed": {"share_border": False, "cuda_graph": True},
    "graphed_shared": {"share_border": True, "cuda_graph": True},
    "compiled": {"compile": True},
}
CLASSES = 4


class Side:
    """One of the PATHS: a model, its optimizer, and loaders of the photographs.

    Args:
        body: the classifier, which is copied.
        name, size: the network's name, and the images' side in pixels.
        folder: the photographs are in `folder/photographs`, the cache of decoded images is in `folder/.cache`.
    """

    def __init__(self, path: str, body: nn.Module, name: str, size: int, folder: Path, args: argparse.Namespace):
        torch.manual_seed(0)
        row, run = find_network(name), Execution(args.device, args.precision, **PATHS[path])
        network = Network(deepcopy(body), row, run, frozen=True, setup={})
        prompt, mapping = ExpansiveVisualPrompt(size, row.input_size), one_to_one(CLASSES)
        self.model = Prompted(prompt, network, mapping)
        self.optimizer = torch.optim.Adam(prompt.parameters(), lr=0.01, fused=True)  # the scripts'
        self.scaler = torch.amp.GradScaler(args.device.type, enabled=args.precision == "float16")
        how: dict[str, Any] = {
            key: getattr(args, key) for key in ("batch_size", "device", "workers", "gpu_cache_fraction")
        }
        how["cache_folder"] = None if run.plain else folder / ".cache"
        resize = [v2.Resize((size, size))]
        self.data = build_data(Folder().read(folder, "photographs"), train=resize, eval=resize, **how)
        self.batches = list(islice(cycle(self.data.train), args.steps))

    def training(self, batches=None) -> None:
        train_one_epoch(self.model, batches or self.batches, self.optimizer, self.scaler)

    def forward(self, batches=None) -> torch.Tensor:
        counter = PredictionCounter(1000, CLASSES)
        return count_predictions(self.model.source_logits, batches or self.batches, counter).counts

    def epoch(self) -> None:
        self.model.mapping.set(frequency_label_mapping(self.forward(self.data.train)))
        self.training(self.data.train)
        evaluate(self.model, self.data.test)

    def loading(self) -> None:
        """Reads all batches that an epoch reads."""
        for loader in (self.data.train, self.data.train, self.data.test):
            for _ in loader:
                pass


def default_path(device: torch.device) -> str:
    """The path that a script takes without a flag."""
    return {"cpu": "shared", "cuda": "graphed_shared"}.get(device.type, "dense")


@torch.no_grad()
def random_body(name: str) -> nn.Module:
    """The architecture with random weights. The normalisations' statistics are those of a few random images.

    Without them a deep network's activations would not fit into float16.
    """
    torch.manual_seed(0)
    body = ARCHITECTURES[name]().train()
    for layer in body.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    size = find_network(name).input_size
    body(torch.randn(2, 3, size, size))
    return body


def write_photographs(folder: Path, counts: dict[str, int], different: int = 256) -> None:
    """JPEGs of 500 x 375 with as much detail as photographs: large shapes and a little noise; `different` contents."""
    generator = np.random.default_rng(0)
    for split, count in counts.items():
        files = [folder / split / f"class{number % CLASSES}" / f"{number}.jpg" for number in range(count)]
        for number, file in enumerate(files):
            file.parent.mkdir(parents=True, exist_ok=True)
            if number >= different:
                os.link(files[number % different], file)
                continue
            shapes = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            image = np.asarray(Image.fromarray(shapes).resize((500, 375), Image.Resampling.BICUBIC), np.int16)
            image = (image + generator.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(image).save(file, quality=90)
