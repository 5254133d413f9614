"""Networks in the part of a service: asked once an image, and never for a gradient."""

import hashlib
from collections.abc import Sequence

from torch import Tensor

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
        run: how it computes. Answers of another precision are others.
    """

    def __init__(self, network: Network, run: Execution):
        super().__init__(network)
        self.fingerprint = _hash(f"{network.fingerprint} {network.class_names}".encode())[:16]
        self._answers = Answers(answers_file(f"{self.fingerprint}-{run.precision}{'-plain' * run.plain}"))

    def answer(self, images: Tensor) -> Tensor:
        keys = [_hash(image.cpu().numpy().tobytes()) for image in images.detach()]
        ask = super().answer
        return self._answers.look_up(keys, lambda positions: ask(images[positions])).to(images.device)


def without_identity(run: Execution) -> Execution:
    """How the run computes; but what is loaded for it does not become the run's `weights`."""
    return Execution(run.device, run.precision, run.plain)


def load_service(name: str, run: Execution) -> BlackBox:
    """The service of --service: a network of `load_network`, or the address of an `HttpService`."""
    how = without_identity(run)
    network = load_network(name, how)
    return network if isinstance(network, BlackBox) else LocalService(network, how)


def zero_shot(network, own_labels: Sequence[int]) -> Prompted:
    """The network on the images as they are; target t has the source label `own_labels[t]`."""
    mapping = SelectLabels(len(own_labels))
    mapping.set(Tensor(own_labels).long())
    return Prompted(NoVisualPrompt(), network, mapping)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
