"""From a checkpoint back to a model: prompts of this and of the original repository, heads, fine-tuned networks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from errors import UserError
from models.networks import load_network
from models.prompted import Prompted
from models.visual_prompt import ExpansiveVisualPrompt


def restore(checkpoint: dict, network: str, *, image_size: int, **placement) -> nn.Module:
    """Rebuilds the trained model, in eval mode.

    Args:
        checkpoint: what was saved, by its keys: `visual_prompt_dict` and `mapping_sequence`, `head_dict`, or
            `network_dict`.
        network: the --network that it was trained with.
        image_size: side of the images in pixels that its transform gives.
        placement: device, precision, plain; see `load_network`.

    Returns:
        Images (B,3,h,w) in [0,1] -> target logits (B,T).

    Raises:
        UserError: the checkpoint holds nothing that can be restored, or does not fit the network.
    """
    kind = next((key for key in _RESTORERS if key in checkpoint), None)
    if kind is None:
        raise _misfit(network, f"it holds {', '.join(map(str, checkpoint)) or 'nothing'}")
    try:
        return _RESTORERS[kind](checkpoint, network, image_size, placement).eval()
    except (KeyError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        raise _misfit(network, str(error).splitlines()[0]) from None


def _prompt(checkpoint: dict, name: str, image_size: int, placement: dict) -> nn.Module:
    network = load_network(name, **placement)
    state, mapping = checkpoint["visual_prompt_dict"], torch.as_tensor(checkpoint["mapping_sequence"]).long()
    canvas = (3, network.input_size, network.input_size)
    if tuple(state["program"].shape) != canvas:
        raise ValueError(f"its prompt is {tuple(state['program'].shape)}, the network's input {canvas}")
    if mapping.min() < 0 or mapping.max() >= len(network.class_names):
        raise ValueError(f"it maps to source class {mapping.max()}, the network has {len(network.class_names)}")
    prompt = ExpansiveVisualPrompt(image_size, network.input_size)
    prompt.load_state_dict({"program": state["program"], "mask": state["mask"].expand(canvas)})
    model = Prompted(prompt, network, len(mapping))
    model.set_mapping(mapping)
    return model.to(placement["device"])


def _head(checkpoint: dict, name: str, image_size: int, placement: dict) -> nn.Module:
    encoder = load_network(name, num_classes=0, **placement)
    weight: Tensor = checkpoint["head_dict"]["weight"]
    features = encoder(torch.zeros(1, 3, image_size, image_size, device=placement["device"])).shape[1]
    if features != weight.shape[1]:
        raise ValueError(f"its head takes {weight.shape[1]} features, the network gives {features}")
    head = nn.Linear(features, len(weight))
    head.load_state_dict(checkpoint["head_dict"])
    return nn.Sequential(encoder, head).to(placement["device"])


def _network(checkpoint: dict, name: str, image_size: int, placement: dict) -> nn.Module:
    classes = len(checkpoint["setup"]["class_names"])
    network = load_network(name, num_classes=classes, frozen=False, **placement)
    network.load_state_dict(checkpoint["network_dict"])
    return network


_RESTORERS: dict[str, Callable[[dict, str, int, dict], nn.Module]] = {
    "visual_prompt_dict": _prompt,
    "head_dict": _head,
    "network_dict": _network,
}


def _misfit(network: str, found: str) -> UserError:
    return UserError(
        f"The checkpoint should fit --network {network}.",
        f"It does not: {found}.",
        "Give the checkpoint of a run with this network, or the --network of this checkpoint.",
    )
