"""One row of the table of networks, and what is said where a row's weights cannot be had or read."""

import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError

import torch
from torch import nn
from torchvision import models as torchvision_models

from errors import UserError
from models.weights_file import why_unreadable

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASS_NAMES = tuple(torchvision_models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
OFFLINE_NETWORK = "efficientnet_lite0"


@dataclass(frozen=True)
class NetworkRow:
    """One pre-trained network.

    `build()` gives the network with its weights, (B,3,H,W) normalised by `mean` and `std` -> (B,S) logits. A network
    without a classifier has no `class_names`, and gives features.
    """

    build: Callable[[], nn.Module]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    input_size: int = 224
    class_names: tuple[str, ...] = CLASS_NAMES


def checkpoint_folder() -> Path:
    """Where torch keeps downloaded weights, and where a user may put a file by hand."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def require_connection(url: str) -> None:
    """Raises an OSError where there is no connection: the hub's own client would try again for a minute and a half.

    Any answer shows a connection. The hub may have the file under another name, or refuse this request.
    """
    with suppress(HTTPError):
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()


def missing(name: str, file: Path, url: str, reason: object) -> UserError:
    return UserError(
        f"--network {name}: its weights are not on this machine and could not be downloaded ({reason}).",
        f"Looked for {file}.",
        f"Download {url} elsewhere and put it there, or try --network {OFFLINE_NETWORK}, whose weights come with pip.",
    )


def unreadable(name: str, file: Path, reason: Exception | str) -> UserError:
    return UserError(
        f"--network {name}: its weights cannot be read.",
        f"{file}: {reason if isinstance(reason, str) else why_unreadable(reason)}",
        "Delete that file (or install the package that it belongs to again) and run the command again.",
    )
