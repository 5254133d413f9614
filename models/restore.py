"""From a checkpoint back to a model: prompts of this and of the original repository, heads, fine-tuned networks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from errors import UserError
from models.clip import TEMPLATES, load_clip, load_image_encoder, text_prompts
from models.clip_source import ClipRow, find_clip
from models.networks import Network, load_network
from models.prompted import Prompted
from models.visual_prompt import (
    AdditiveVisualPrompt,
    ExpansiveVisualPrompt,
    PaddedVisualPrompt,
    RandomPatchVisualPrompt,
)


def restore(checkpoint: dict, setup: dict, *, image_size: int, **placement) -> nn.Module:
    """Rebuilds the trained model, in eval mode.

    Args:
        checkpoint: what was saved, by its keys: `visual_prompt_dict` and `mapping_sequence`, `head_dict`, or
            `network_dict`.
        setup: what it belongs to: `network` (the --network), or for CLIP `clip`; `class_names`; `classes`, what was
            saved under each key.
        image_size: side of the images in pixels that its transform gives.
        placement: device, precision, plain; see `load_network`.

    Returns:
        Images (B,3,h,w) in [0,1] -> target logits (B,T).

    Raises:
        UserError: the checkpoint holds nothing that can be restored, or does not fit the network.
    """
    kind = next((key for key in _RESTORERS if key in checkpoint), None)
    if kind is None:
        raise _misfit(setup, f"it holds {', '.join(list(map(str, checkpoint))[:8]) or 'nothing'}")
    try:
        model = _RESTORERS[kind](checkpoint, setup, image_size, placement)
    except (KeyError, ValueError, RuntimeError, AttributeError, TypeError, IndexError) as error:
        raise _misfit(setup, str(error).splitlines()[0]) from None
    return model.to(placement["device"]).eval()


def default_transform(setup: dict, image_size: int) -> dict:
    """The evaluation transform where a checkpoint names none: CLIP's own preprocessing, or a resize to `image_size`."""
    if "clip" not in setup:
        return {"size": image_size}
    row = _row(setup)
    return {"size": row.input_size, **row.preprocessing}


def _prompted(checkpoint: dict, setup: dict, image_size: int, placement: dict) -> nn.Module:
    state, mapping = dict(checkpoint["visual_prompt_dict"]), torch.as_tensor(checkpoint["mapping_sequence"]).long()
    if "clip" in setup:
        network, mapping = _mapped_clip(setup, mapping, placement)
        default = "AdditiveVisualPrompt"  # the original repository's for CLIP; its checkpoints do not name it
    else:
        network, default = load_network(setup["network"], **placement), "ExpansiveVisualPrompt"
    if mapping.min() < 0 or mapping.max() >= len(network.class_names):
        raise ValueError(f"it maps to source class {mapping.max()}, the network has {len(network.class_names)}")
    prompt = _PROMPTS[setup.get("classes", {}).get("visual_prompt_dict", default)](state, image_size, network)
    prompt.load_state_dict(state)
    model = Prompted(prompt, network, len(mapping))
    model.set_mapping(mapping)
    return model


def _mapped_clip(setup: dict, mapping: Tensor, placement: dict) -> tuple[Network, Tensor]:
    """CLIP with a bank of the text prompts that the map chose, and no others; the map then is 0 ... T-1."""
    clip, row = setup["clip"], _row(setup)
    texts = text_prompts(clip.get("templates", TEMPLATES), setup["class_names"])
    if clip.get("ensemble"):
        return load_clip(row, texts, ensemble_of=len(clip["templates"]), **placement), mapping
    if mapping.min() < 0:
        raise ValueError("its map has not been made")
    return load_clip(row, [texts[source] for source in mapping.tolist()], **placement), torch.arange(len(mapping))


def _row(setup: dict) -> ClipRow:
    clip = setup["clip"]
    row = find_clip(*(clip.get(name) for name in ("model", "pretrained", "config")))
    if row.md5 and clip.get("md5") and row.md5 != clip["md5"]:
        raise UserError(
            f"{row.pretrained}: the weights that the checkpoint was trained with are needed.",
            f"These are others: their md5 is {row.md5}, not {clip['md5']}.",
            "Put the file back, or say with --pretrained FILE where it lies now.",
        )
    return row


def _canvas(mask: Tensor, network: Network) -> Tensor:
    """The (H,W) mask of a saved prompt, which has to be the size of the network's input."""
    if tuple(mask.shape[-2:]) != (network.input_size,) * 2:
        canvas = (3, network.input_size, network.input_size)
        raise ValueError(f"its prompt is {(3, *mask.shape[-2:])}, the network's input {canvas}")
    return mask[0] if mask.ndim == 3 else mask


def _expansive(state: dict, image_size: int, network: Network) -> nn.Module:
    state["mask"] = _canvas(state["mask"], network).expand(3, -1, -1)
    return ExpansiveVisualPrompt(image_size, network.input_size)


_PROMPTS: dict[str, Callable[[dict, int, Network], nn.Module]] = {
    "ExpansiveVisualPrompt": _expansive,
    "AdditiveVisualPrompt": lambda state, size, net: AdditiveVisualPrompt(_canvas(state["mask"], net), net.std),
    "PaddedVisualPrompt": lambda state, size, net: PaddedVisualPrompt(size, _canvas(state["mask"], net)),
    "RandomPatchVisualPrompt": lambda state, size, net: RandomPatchVisualPrompt(
        state["program"].shape[-1], net.input_size, net.std
    ),
    "Identity": lambda state, size, net: nn.Identity(),
}


def _encoder(setup: dict, placement: dict, num_classes: int, *, frozen: bool) -> Network:
    if "clip" in setup:
        return load_image_encoder(_row(setup), num_classes=num_classes, frozen=frozen, **placement)
    return load_network(setup["network"], num_classes=num_classes, frozen=frozen, **placement)


def _head(checkpoint: dict, setup: dict, image_size: int, placement: dict) -> nn.Module:
    encoder = _encoder(setup, placement, 0, frozen=True)
    weight: Tensor = checkpoint["head_dict"]["weight"]
    features = encoder(torch.zeros(1, 3, image_size, image_size, device=placement["device"])).shape[1]
    if features != weight.shape[1]:
        raise ValueError(f"its head takes {weight.shape[1]} features, the network gives {features}")
    head = nn.Linear(features, len(weight))
    head.load_state_dict(checkpoint["head_dict"])
    return nn.Sequential(encoder, head)


def _network(checkpoint: dict, setup: dict, image_size: int, placement: dict) -> nn.Module:
    network = _encoder(setup, placement, len(setup["class_names"]), frozen=False)
    network.load_state_dict(checkpoint["network_dict"])
    return network


_RESTORERS: dict[str, Callable[[dict, dict, int, dict], nn.Module]] = {
    "visual_prompt_dict": _prompted,
    "head_dict": _head,
    "network_dict": _network,
}


def _misfit(setup: dict, found: str) -> UserError:
    return UserError(
        f"The checkpoint should fit {'' if 'clip' in setup else '--network '}{setup['network']}.",
        f"It does not: {found}.",
        "Give the checkpoint of a run with this network, or the network of this checkpoint.",
    )
