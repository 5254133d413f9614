"""Rebuilds a model from a checkpoint: of this repository, of its earlier versions, or of the original repositories.

A checkpoint's `setup` names the classes of prompt and output mapping, and the arguments of their constructors. In
checkpoints of earlier versions and of the originals these are missing; `_older_prompt` rebuilds their prompts.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from errors import UserError
from models.clip import TEMPLATES, build_classifier, build_encoder, text_prompts
from models.clip_preprocess import earlier_preprocessing
from models.clip_source import ClipRow, find_clip
from models.networks import Execution, LinearHead, Network, load_network
from models.output_mapping import SelectLabels, one_to_one
from models.part import Part, rebuilt
from models.primed import PrimedNetwork
from models.prompted import Prompted
from models.visual_prompt import (
    AdditiveVisualPrompt,
    ExpansiveVisualPrompt,
    NoVisualPrompt,
    PaddedVisualPrompt,
    RandomPatchVisualPrompt,
)


def restore(checkpoint: dict, setup: dict, run: Execution) -> nn.Module:
    """Rebuilds the trained model, in eval mode.

    Args:
        checkpoint: what was saved, by its keys: `visual_prompt_dict` with `mapping_sequence` or `mapping_dict`,
            `head_dict`, or `network_dict`.
        setup: what the checkpoint belongs to: `network` (the --network) or for CLIP `clip`, and `class_names`. A
            checkpoint of this version also has `prompt` and `mapping`. One of the originals needs `image_size`, the
            data set's.
        run: where and how it computes.

    Returns:
        Images (B,3,h,w) in [0,1] -> target logits (B,T).

    Raises:
        UserError: the checkpoint holds nothing that can be restored, does not fit the network, or was trained with
            other weights than those loaded.
    """
    try:
        if "visual_prompt_dict" in checkpoint:
            model = _prompted(checkpoint, setup, run)
        elif "head_dict" in checkpoint:
            model = _probe(checkpoint["head_dict"], setup, run)
        elif "network_dict" in checkpoint:
            model = _network(setup, run, num_classes=len(setup["class_names"]), frozen=False)
            model.load_state_dict(checkpoint["network_dict"])
        else:
            raise ValueError(f"it holds {', '.join(list(map(str, checkpoint))[:8]) or 'nothing'}")
    except (KeyError, ValueError, RuntimeError, AttributeError, TypeError, IndexError, MemoryError) as error:
        raise UserError(
            f"The checkpoint should fit {'' if 'clip' in setup else '--network '}{setup['network']}.",
            f"It does not: {(str(error) or type(error).__name__).splitlines()[0]}.",
            "Give the checkpoint of a run with this network, or the network of this checkpoint.",
        ) from None
    _require_same_weights(model, setup)
    return model.to(run.device).eval()


def weights_of(model: nn.Module) -> str:
    """The hash of the weights that the model's network was loaded with."""
    return next(module.fingerprint for module in model.modules() if hasattr(module, "fingerprint"))


def _require_same_weights(model: nn.Module, setup: dict) -> None:
    """Compares the hash of the weights that were loaded with the checkpoint's. Older checkpoints have none."""
    loaded = weights_of(model)
    if setup.get("weights", loaded) != loaded:
        raise UserError(
            f"{setup['network']}: the weights that the checkpoint was trained with are needed.",
            f"Other weights, or the same with another normalisation, were loaded: their hash is {loaded},"
            f" not {setup['weights']}.",
            "Put the file of the weights back, or give its new path with --network or --pretrained.",
        )


def default_transforms(setup: dict) -> list[v2.Transform]:
    """The transforms for a checkpoint that names none: CLIP's own preprocessing, or a plain resize."""
    return clip_row(setup).preprocess if "clip" in setup else [v2.Resize((setup["image_size"], setup["image_size"]))]


def _prompted(checkpoint: dict, setup: dict, run: Execution) -> nn.Module:
    mapping = _mapping(checkpoint, setup)
    if "clip" in setup:
        network, mapping = _mapped_clip(setup, mapping, run)
    else:
        network = _network(setup, run, num_classes=None, frozen=True)
    if "head_dict" in checkpoint:
        network = PrimedNetwork(network, setup["head_classes"])
        network.head.load_state_dict(checkpoint["head_dict"])
    if int(mapping.sources.max()) >= len(network.class_names):
        raise ValueError(f"it maps to source class {mapping.sources.max()}, the network has {len(network.class_names)}")
    state = dict(checkpoint["visual_prompt_dict"])
    prompt = rebuilt(setup["prompt"]) if "prompt" in setup else _older_prompt(state, setup, network)
    prompt.load_state_dict(state)
    if "network_dict" in checkpoint:
        network.load_state_dict(checkpoint["network_dict"])
    return Prompted(prompt, network, mapping)


def _mapping(checkpoint: dict, setup: dict) -> Part:
    if "mapping_dict" in checkpoint:
        mapping = rebuilt(setup["mapping"])
        mapping.load_state_dict(checkpoint["mapping_dict"])
        return mapping
    index = torch.as_tensor(checkpoint["mapping_sequence"]).long()
    if int(index.min()) < 0:
        raise ValueError("its mapping has not been made")
    mapping = SelectLabels(len(index), *index.shape[1:])
    mapping.set(index)
    return mapping


def _mapped_clip(setup: dict, mapping: Part, run: Execution) -> tuple[Network, Part]:
    """CLIP and its mapping. Where each target has one source label, only these T text prompts are encoded, in order."""
    clip, row, names = setup["clip"], clip_row(setup), setup["class_names"]
    if "texts" in clip:
        return build_classifier(row, run, clip["texts"]), mapping
    templates = clip.get("templates", TEMPLATES)
    texts = text_prompts(templates, names)
    averaged = names if clip.get("ensemble") else ()
    if averaged or not isinstance(mapping, SelectLabels) or mapping.index.ndim > 1:
        return build_classifier(row, run, texts, templates, averaged), mapping
    chosen = [texts[source] for source in mapping.index.tolist()]
    return build_classifier(row, run, chosen, templates), one_to_one(mapping.num_target)


def clip_row(setup: dict) -> ClipRow:
    """The CLIP of a checkpoint. Raises UserError if the weights' file is not the one that the checkpoint names."""
    clip = setup["clip"]
    preprocess = clip.get("preprocess")
    if clip.get("md5") and "preprocess" not in clip:
        preprocess = earlier_preprocessing(clip["model"], clip.get("config"))
    row = find_clip(*(clip.get(name) for name in ("model", "pretrained", "config")), preprocess)
    if row.md5 and clip.get("md5") and row.md5 != clip["md5"]:
        raise UserError(
            f"{row.pretrained}: the weights that the checkpoint was trained with are needed.",
            f"The file holds others: its md5 is {row.md5}, not {clip['md5']}.",
            "Put the file back, or give its new path: --pretrained FILE",
        )
    return row


def _network(setup: dict, run: Execution, **loading: Any) -> Network:
    """The network, loaded as for training. `loading` has the arguments for a checkpoint that does not name them."""
    loading |= setup.get("loading", {})
    if "clip" in setup:
        return build_encoder(clip_row(setup), run, **loading)
    return load_network(setup.get("source", setup["network"]), run, **loading)


def _probe(state: dict, setup: dict, run: Execution) -> nn.Module:
    encoder, weight = _network(setup, run, num_classes=0, frozen=True), state["weight"]
    size = encoder.input_size
    features = encoder(torch.zeros(1, 3, size, size, device=run.device)).shape[1]
    if features != weight.shape[1]:
        raise ValueError(f"its head takes {weight.shape[1]} features, the network gives {features}")
    head = LinearHead(features, len(weight))
    head.load_state_dict(state)
    return nn.Sequential(encoder, head)


def _older_prompt(state: dict, setup: dict, network: Network) -> Part:
    """A prompt of an earlier version, whose setup names its class, or of the original repository, which names none.

    The original's expansive mask is (H,W); `state` gets it as (3,H,W).
    """
    default = "AdditiveVisualPrompt" if "clip" in setup else "ExpansiveVisualPrompt"
    name, mask = setup.get("classes", {}).get("visual_prompt_dict", default), state.get("mask", torch.zeros(0))
    if "mask" in state and tuple(mask.shape[-2:]) != (network.input_size,) * 2:
        canvas = (3, network.input_size, network.input_size)
        raise ValueError(f"its prompt is {(3, *mask.shape[-2:])}, the network's input {canvas}")
    plane: Tensor = mask[0] if mask.ndim == 3 else mask
    if name == "ExpansiveVisualPrompt":
        state["mask"] = plane.expand(3, -1, -1)
    transform, canvas = setup.get("transform"), network.input_size
    size = (transform.get("crop") or transform["size"]) if isinstance(transform, dict) else setup["image_size"]
    makers: dict[str, Callable[[], Part]] = {
        "ExpansiveVisualPrompt": lambda: ExpansiveVisualPrompt(size, canvas),
        "AdditiveVisualPrompt": lambda: AdditiveVisualPrompt(plane, network.std),
        "PaddedVisualPrompt": lambda: PaddedVisualPrompt(size, plane),
        "RandomPatchVisualPrompt": lambda: RandomPatchVisualPrompt(state["program"].shape[-1], canvas, network.std),
        "Identity": NoVisualPrompt,
    }
    return makers[name]()
