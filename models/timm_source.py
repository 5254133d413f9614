"""Networks of timm with the weights that timm publishes. `timm_own.py` has those with weights of one's own.

timm takes a second to import, so only the functions that need it do.
"""

from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from errors import UserError
from models.network_row import CLASS_NAMES, NetworkRow, checkpoint_folder, missing, require_connection, unreadable


def published_row(asked: str, name: str) -> NetworkRow:
    weights = pretrained_cfg(name)
    if weights is None or not weights.hf_hub_id:
        raise no_such_name(asked, name)
    build = partial(from_timm, asked, name)
    return NetworkRow(build, weights.mean, weights.std, weights.input_size[-1], _imagenet_names(weights.num_classes))


def from_timm(asked: str, name: str) -> nn.Module:
    """The weights of timm's `name`, for the `asked` --network: a file put by hand, the hub's cache, or a download."""
    import huggingface_hub
    import timm

    weights = timm.models.get_pretrained_cfg(name)
    repository = weights.hf_hub_id
    file = checkpoint_folder() / f"{name}.safetensors"
    url = huggingface_hub.hf_hub_url(repository, "model.safetensors")
    source = file if file.is_file() else huggingface_hub.try_to_load_from_cache(repository, "model.safetensors")
    if not isinstance(source, str | Path):
        try:
            require_connection(url)
            source = huggingface_hub.hf_hub_download(repository, "model.safetensors")
        except Exception as error:  # the hub's client raises errors of its own, too
            raise missing(asked, file, url, error) from None
    try:  # `custom_load` is for other formats of the same weights, and not for the hub's
        return timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay={"file": str(source), "custom_load": False}
        )
    except Exception as error:
        raise unreadable(asked, Path(source), error) from None


def pretrained_cfg(name: str) -> Any:
    """timm's description of the weights `name`; None if it knows no such name."""
    import timm

    try:
        return timm.models.get_pretrained_cfg(name) if timm.is_model(name.split(".")[0]) else None
    except RuntimeError:  # the architecture is known, the tag is not
        return None


def no_such_name(asked: str, name: str) -> UserError:
    import timm

    known = timm.list_pretrained()
    nearest = get_close_matches(name, known + [full.split(".")[0] for full in known], n=1, cutoff=0.5)
    return UserError(
        f"--network {asked}: there is no such name with pre-trained weights.",
        "Known: the names that timm.list_pretrained() gives, over a thousand.",
        f"Did you mean --network timm:{nearest[0]}?" if nearest else "For example --network timm:resnet34",
    )


def _imagenet_names(num_classes: int) -> tuple[str, ...]:
    """Class names of timm's published classifiers, which timm tells by their number: ImageNet-1k, parts of 21k."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    if num_classes == len(CLASS_NAMES):
        return CLASS_NAMES
    subset = infer_imagenet_subset({"num_classes": num_classes})
    return tuple(ImageNetInfo(subset).label_descriptions()) if subset else numbered(num_classes)


def numbered(num_classes: int) -> tuple[str, ...]:
    return tuple(f"source {number}" for number in range(num_classes))
