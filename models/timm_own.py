"""Networks of timm with weights of one's own: from a file, a folder or the hub.

timm takes a second to import, so only the functions that need it do.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from errors import UserError, in_short
from models.network_row import CLASS_NAMES, NetworkRow, require_connection, unreadable
from models.timm_source import no_such_name, numbered, pretrained_cfg, published_row
from models.weights_file import read_state, state_differences, why_unreadable

CONFIG, WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")  # as timm's save_for_hf names them


def timm_row(asked: str) -> NetworkRow:
    """The row of `timm:NAME`, published weights, or of `timm:NAME=FILE`, weights of one's own for timm's NAME."""
    name, own, file = asked.removeprefix("timm:").partition("=")
    return _file_row(asked, name, Path(file)) if own else published_row(asked, name)


def folder_row(asked: str) -> NetworkRow:
    """The row of `local-dir:FOLDER`: a config.json and the weights, as timm's `save_for_hf` writes them."""
    folder = Path(asked.removeprefix("local-dir:"))
    weights = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not weights or not (folder / CONFIG).is_file():
        raise UserError(
            f"--network {asked}: a folder with {CONFIG} and {' or '.join(WEIGHTS)} is needed.",
            "It lacks the weights." if (folder / CONFIG).is_file() else f"There is no {CONFIG} in it.",
            "timm.models.save_for_hf(model, FOLDER) writes both. For a file alone: --network timm:NAME=FILE",
        )
    return _config_row(asked, folder / CONFIG, weights[0])


def hub_row(asked: str) -> NetworkRow:
    """The row of `hf-hub:OWNER/NAME`, or `hf-hub:OWNER/NAME@REVISION`: a network of timm on the Hugging Face hub."""
    repository, _, revision = asked.removeprefix("hf-hub:").partition("@")
    config, weights = (_from_hub(asked, repository, revision or None, names) for names in ((CONFIG,), WEIGHTS))
    return _config_row(asked, config, weights, of_timm=repository.startswith("timm/"))


def _file_row(asked: str, name: str, file: Path) -> NetworkRow:
    """The classes of a file are numbered: nothing in it says what they mean, not even if they are 1000."""
    cfg = _own_pretrained_cfg(asked, name, file)
    state = _state(asked, file)
    classifiers = [cfg.classifier] if isinstance(cfg.classifier, str) else cfg.classifier or []
    weight = next((state[f"{key}.weight"] for key in classifiers if f"{key}.weight" in state), None)
    num_classes = 0 if weight is None else len(weight)
    build = partial(_filled, asked, name.split(".")[0], state, file, {"num_classes": num_classes})
    if not num_classes:
        build()  # refuses a file of another architecture, which is no network without a classifier
    return NetworkRow(build, tuple(cfg.mean), tuple(cfg.std), cfg.input_size[-1], numbered(num_classes))


def _own_pretrained_cfg(asked: str, name: str, file: Path) -> Any:
    """timm's description of how images are prepared for `name`. A tag is asked for where they disagree."""
    import timm

    cfg = pretrained_cfg(name)
    if cfg is None:
        raise no_such_name(asked, name)
    tags: dict[tuple, str] = {}
    for full, published in timm.models.get_arch_pretrained_cfgs(name).items():
        tags.setdefault((published.mean, published.std, published.input_size[-1]), full)
    if "." not in name and len(tags) > 1:
        ways = (f"{full}: mean {mean}, std {std}, {size} pixels" for (mean, std, size), full in tags.items())
        raise UserError(
            f"--network {asked}: a file does not say how its images were prepared.",
            f"timm's weights for {name} disagree. {'; '.join(ways)}.",
            f"Type {' or '.join(f'--network timm:{full}={file}' for full in tags.values())}. For other values write a"
            f" {CONFIG} beside the weights: --network local-dir:FOLDER",
        )
    return cfg


def _config_row(asked: str, config: Path, weights: Path, of_timm: bool = False) -> NetworkRow:
    """The row that a config.json of timm's describes.

    Args:
        of_timm: a repository of timm's own. Its tags that end in `in1k` are classifiers of ImageNet-1k.
    """
    import timm

    try:
        content = json.loads(config.read_text(encoding="utf-8-sig"))
        own = content.get("pretrained_cfg", content)
        architecture, arguments = content["architecture"], dict(content.get("model_args") or {})
        num_classes = int(content.get("num_classes", own.get("num_classes")))
        mean, std = (tuple(map(float, own[key])) for key in ("mean", "std"))
        channels, height, size = own["input_size"]
        names = _label_names(content, own, num_classes)
        if not timm.is_model(architecture):
            raise ValueError(f"timm has no architecture {architecture!r}")
        if (channels, len(mean), len(std)) != (3, 3, 3) or height != size or min(std) <= 0:
            raise ValueError(f"input_size {own['input_size']}, mean {mean}, std {std}: square RGB images are needed")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(
            f"--network {asked}: {CONFIG} should say architecture, num_classes, input_size, mean and std.",
            f"{config}: {what}.",
            "timm.models.save_for_hf(model, FOLDER) writes such a file.",
        ) from None
    if names is None:
        imagenet = of_timm and str(own.get("tag")).endswith("in1k") and num_classes == len(CLASS_NAMES)
        names = CLASS_NAMES if imagenet else numbered(num_classes)
    state = _state(asked, weights)
    build = partial(_filled, asked, architecture, state, weights, arguments | {"num_classes": num_classes})
    return NetworkRow(build, mean, std, size, names)


def _label_names(content: dict, own: dict, num_classes: int) -> tuple[str, ...] | None:
    """What the config calls its classes: a list, or an object from number to name; None if it does not say."""
    names, descriptions = (content.get(key, own.get(key)) for key in ("label_names", "label_descriptions"))
    if not names:
        return None
    if isinstance(names, dict):
        names = [names.get(str(number), f"source {number}") for number in range(num_classes)]
    if len(names) != num_classes or not all(isinstance(name, str) and name.isprintable() for name in names):
        raise ValueError(f"label_names should be {num_classes} printable names")
    described = descriptions if isinstance(descriptions, dict) else {}
    return tuple(" ".join(str(described.get(name, name)).split()) for name in names)


def _filled(
    asked: str, architecture: str, state: dict[str, Tensor], file: Path, arguments: dict[str, Any]
) -> nn.Module:
    """timm's `architecture` with all tensors of `state`, and no others."""
    import timm

    try:
        body = timm.create_model(architecture, **arguments)
    except Exception as error:  # what the arguments of a config.json may be is up to each architecture
        raise unreadable(asked, file, error) from None
    if differing := state_differences(body, state):
        raise UserError(
            f"--network {asked}: {file} should hold the weights of timm's {architecture}.",
            f"It differs: {in_short(differing, 3)}.",
            "Name the architecture from which the file was saved, or give its tensors the names of timm.",
        )
    body.load_state_dict(state)
    return body


def _state(asked: str, file: Path) -> dict[str, Tensor]:
    try:
        return read_state(file)
    except Exception as error:  # a damaged or foreign file raises nearly anything
        raise UserError(
            f"--network {asked}: a file of weights is needed.",
            f"{file}: {why_unreadable(error)}",
            "Give its new path, or another file: .safetensors, or what torch.save(model.state_dict(), FILE) wrote.",
        ) from None


def _from_hub(asked: str, repository: str, revision: str | None, names: Sequence[str]) -> Path:
    """The first of the files `names` in a repository: from the hub's cache, or downloaded."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    try:
        for name in names:
            cached = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)
            if isinstance(cached, str):
                return Path(cached)
        url = huggingface_hub.hf_hub_url(repository, names[0], revision=revision)
        require_connection(url)
        for name in names:
            with suppress(EntryNotFoundError):
                return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
        raise FileNotFoundError(f"it has no {' or '.join(names)}")
    except Exception as error:  # the hub's client raises errors of its own, too
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"--network {asked}: {' or '.join(names)} is not in the hub's cache, and cannot be downloaded.",
            f"{reason.rstrip('.')}.",
            f"Check the name, or download {CONFIG} and {' or '.join(WEIGHTS)} of https://huggingface.co/{repository}"
            " elsewhere into a folder and type --network local-dir:FOLDER",
        ) from None
