"""Networks in the part of a service: asked once an image, and never for a gradient."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from errors import UserError, in_short
from models.answers import Answers, answers_file
from models.black_box import BlackBox
from models.networks import Execution, Network, load_network
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.visual_prompt import NoVisualPrompt


class LocalService(BlackBox):
    """A network on this machine that plays the service, as `HttpService`: each answer is kept on disk, for all runs.

    Args:
        network: a frozen `Network`, such as a CLIP.
        run: how it computes, and in which `pieces`. Answers of another precision are others. Those of another device
            are not, as for all results: they differ by rounding.
    """

    def __init__(self, network: Network, run: Execution):
        super().__init__(network, pieces=getattr(run, "pieces", None))
        self.fingerprint = _hash(f"{network.fingerprint} {network.class_names}".encode())[:16]
        kept = answers_file(f"{self.fingerprint}-{run.precision}{'-plain' * run.plain}")
        self._answers = Answers(kept, len(self.class_names))

    def answer(self, images: Tensor) -> Tensor:
        keys = [_hash(image.cpu().numpy().tobytes()) for image in images.detach()]
        ask = super().answer
        return self._answers.look_up(keys, lambda positions: ask(images[positions])).to(images.device)


def without_identity(run: Execution) -> Execution:
    """How the run computes; but what is loaded for it does not become the run's `weights`."""
    return Execution(run.device, run.precision, run.plain)


def load_service(name: str, run: Execution) -> BlackBox:
    """The service of --service: a network of `load_network`, or the address of an `HttpService`."""
    network = load_network(name, without_identity(run))
    return network if isinstance(network, BlackBox) else LocalService(network, run)


def own_labels(service_names: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """The source label of each target, by its name: capitals, `_` and `-` do not count.

    Raises:
        UserError: the service has no class of that name.
    """
    plain = [" ".join(name.lower().replace("_", " ").replace("-", " ").split()) for name in service_names]
    if missing := [name for name in class_names if name not in plain]:
        asked = "--fallback compares with the service itself, which needs the data set's own classes."
        found = f"It has no class called {in_short(missing)}."
        raise UserError(asked, found, "Leave --fallback out, or take a service of these classes.")
    return [plain.index(name) for name in class_names]


def zero_shot(network, own_labels: Sequence[int]) -> Prompted:
    """The network on the images as they are; target t has the source label `own_labels[t]`."""
    mapping = SelectLabels(len(own_labels))
    mapping.set(torch.tensor([*own_labels]))
    return Prompted(NoVisualPrompt(), network, mapping)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
