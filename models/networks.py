"""A classifier as a module that normalises by itself and may be frozen, and how it is loaded.

The loaded `Network` knows its normalisation, input size and class names. Other files ask it, not the row of the table
in `network_source.py`.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import UserError
from models.fast_gradients import use_fast_gradients
from models.fold import fold_batch_norm
from models.half import halve_weights, keep_logits_in_float32
from models.http_endpoint import ADDRESSES
from models.http_service import HttpService
from models.network_row import NetworkRow
from models.network_source import find_network
from models.weights_file import weights_hash


@dataclass(frozen=True)
class Execution:
    """Where and how a network computes. A run has the same attributes and can be given instead.

    Args:
        device: the torch.device.
        precision: "float32", or the autocast type "bfloat16" or "float16".
        plain: the slow reference: no batch normalisation is folded, the memory format is kept, no weight is stored in
            half precision, no border is shared.
        compile: torch.compile compiles the network at the first batch, for its size. No border is shared then.
        share_border: whether the border of a prompt is computed once a batch. None: on the CPU, and in CUDA graphs.
            Without graphs the GPU would wait for its many small kernels.
        cuda_graph: whether prompt and network are recorded as CUDA graphs (`graphed.py`). None: on CUDA, if the network
            is frozen, the prompt allows it, and recording succeeds. True: an error where one of these does not hold.
    """

    device: torch.device
    precision: str = "float32"
    plain: bool = False
    compile: bool = False
    share_border: bool | None = None
    cuda_graph: bool | None = None

    def identify(self, **identity: Any) -> None:
        """A run compares what is loaded with its earlier start. Without a run nothing has to be compared."""


CPU = Execution(torch.device("cpu"))


class Network(nn.Module):
    """A classifier that takes images (B,3,H,W) in [0,1] and normalises them itself; logits (B,S) float32.

    Args:
        body: the classifier itself: normalised images -> logits.
        row: its row of the table.
        frozen: no parameter learns, and the network stays in eval mode even after `train()`.
        run: where and how it computes. Weights that learn are always float32. A frozen network's convolutions and
            linear layers have weights of the precision, except for the layer that gives the source logits (float32).
        setup: what a checkpoint saves, in plain values, to load the network again. `weights` is their `weights_hash`.
    """

    def __init__(self, body: nn.Module, row: NetworkRow, run: Execution, *, frozen: bool, setup: dict[str, Any]):
        super().__init__()
        self.body, self.frozen, self.precision = body, frozen, getattr(torch, run.precision)
        self.input_size, self.class_names, self.setup = row.input_size, row.class_names, setup
        self.register_buffer("mean", torch.tensor(row.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(row.std).view(3, 1, 1), persistent=False)
        fast = frozen and not run.plain and not run.compile
        by_default = True if run.device.type == "cpu" else None  # None: if prompt and network are recorded
        self.shares_border = (by_default if run.share_border is None else run.share_border) if fast else False
        possible = fast and run.device.type == "cuda"
        self.cuda_graph = run.cuda_graph if possible or run.cuda_graph else False
        # An epoch's last batch is filled up with black images: else it would be compiled again. Where batch
        # normalisation learns, they would change it.
        self._one_size = 0 if run.compile and frozen else None
        if frozen:
            self.requires_grad_(False).eval()
            if not run.plain:
                fold_batch_norm(body)
            if self.precision != torch.float32:
                keep_logits_in_float32(body, len(row.class_names))  # torch.fx, which folds, cannot trace such a layer
        self._accelerate(run)
        self.to(run.device)

    def _accelerate(self, run: Execution) -> None:
        """The same function, faster."""
        if not run.plain:
            if self.frozen and self.precision != torch.float32:
                halve_weights(self.body, self.precision)
            if self.frozen and run.device.type == "cpu":
                use_fast_gradients(self.body, self.precision)
            for weight in self.parameters():
                if weight.ndim == 4:  # Module.to() would also try convolutions over three axes, and fail
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        if run.compile:
            self.body.compile(dynamic=False)  # of two sizes torch would infer that all may come, in slower code

    def forward(self, x: Tensor) -> Tensor:
        if self._one_size is None:
            return self._logits(x)
        self._one_size = max(self._one_size, len(x))
        return self._logits(F.pad(x, (0,) * 7 + (self._one_size - len(x),)))[: len(x)]

    def _logits(self, x: Tensor) -> Tensor:
        no_image = self.training and not len(x)  # SyncBatchNorm then sends float32 to the others
        if self.precision == torch.float32 or no_image:
            return self.body((x - self.mean) / self.std).float()
        with torch.autocast(x.device.type, self.precision):
            return self.body((x - self.mean) / self.std).float()

    def train(self, mode: bool = True) -> "Network":
        return super().train(mode and not self.frozen)

    @property
    def fingerprint(self) -> str:
        """Identifies the weights that were loaded: `weights_hash`, before anything was folded, replaced or trained."""
        return self.setup["weights"]

    @property
    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds of a network that learns, by its key; nothing of a frozen one."""
        return {} if self.frozen else {"network_dict": self}


def load_network(
    name: str, run: Execution = CPU, *, num_classes: int | None = None, frozen: bool = True
) -> Network | HttpService:
    """Loads a network of the table, of timm or of one's own, with its weights; or finds a service behind HTTP.

    Args:
        name: as `find_network` takes it; or the address of a service, see `HttpService`.
        run: where and how it computes.
        num_classes: None keeps the classifier (S source logits). T > 0 replaces it by a new linear layer of T outputs.
            0 removes it: the output is the (B,D) features that it would see. `class_names` then names them.
        frozen: see `Network`.

    Raises:
        UserError: the name is unknown, the weights cannot be loaded, or the network has no classifier to keep.
    """
    if name.startswith(ADDRESSES):
        return _service(name, run, num_classes)
    row = find_network(name)
    if num_classes is None and not row.class_names:
        raise UserError(
            f"--network {name}: this method maps the network's own classes to those of the data set.",
            "The network has no classifier.",
            "Use linear_probing.py or full_finetune.py, which make a new last layer.",
        )
    body = row.build()
    setup = {
        "source": name,
        "loading": {"num_classes": num_classes, "frozen": frozen},
        "weights": weights_hash(body, row.mean, row.std, row.input_size),
    }
    run.identify(weights=setup["weights"])
    if num_classes is not None:
        _replace_classifier(body, num_classes)
    if num_classes == 0:
        row = replace(row, class_names=_feature_names(body, row.input_size))
    return Network(body, row, run, frozen=frozen, setup=setup)


def _service(address: str, run: Execution, num_classes: int | None) -> HttpService:
    if num_classes is not None:
        asked = f"--network {address}: this method needs the network's features or its weights."
        raise UserError(asked, "A service gives its class scores alone.", "Give a local network.")
    service = HttpService(address, run.device)
    run.identify(weights=service.fingerprint)
    return service


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


@torch.no_grad()
def _feature_names(body: nn.Module, input_size: int) -> tuple[str, ...]:
    features = body.eval()(torch.zeros(1, 3, input_size, input_size)).shape[1]
    return tuple(f"feature {number}" for number in range(features))
