"""Finds a CLIP: checks its names, and tells what images it expects. `clip_weights.py` loads it."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory

import open_clip
from torchvision.datasets.utils import calculate_md5
from torchvision.transforms import v2

from errors import UserError, unknown_name
from models.clip_preprocess import preprocessing_of, spelled


@dataclass(frozen=True)
class ClipRow:
    """One CLIP, not loaded yet: what it is made of, and the images that it expects.

    Args:
        model: open_clip's name of the architecture.
        pretrained: open_clip's tag of the weights, or a file.
        config: a JSON file with the architecture, for one that open_clip does not know.
        input_size: side of its input in pixels.
        mean, std: mean and standard deviation of its normalisation, by channel.
        squash: True: both sides are resized to `input_size`. False: the shorter side is, and the centre is cropped.
        bicubic: True: bicubic interpolation. False: bilinear.
        md5: md5 of the weights' file; None for a tag.
        preprocess_text: mean, std, squash and bicubic as --preprocess takes them; None for a tag, which has its own.
        class_names: always empty. The text prompts are given when the CLIP is loaded.
    """

    model: str
    pretrained: str
    config: str | None
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    squash: bool
    bicubic: bool
    md5: str | None
    preprocess_text: str | None
    class_names: tuple[str, ...] = ()

    @property
    def preprocess(self) -> list[v2.Transform]:
        """CLIP's own resize and crop, without normalisation. `Network` normalises."""
        mode = v2.InterpolationMode.BICUBIC if self.bicubic else v2.InterpolationMode.BILINEAR
        if self.squash:
            return [v2.Resize((self.input_size, self.input_size), mode)]
        return [v2.Resize(self.input_size, mode), v2.CenterCrop(self.input_size)]

    @property
    def names(self) -> dict[str, str | None]:
        """What a checkpoint saves, to find the same CLIP again."""
        own = {"config": self.config, "md5": self.md5, "preprocess": self.preprocess_text}
        return {"model": self.model, "pretrained": self.pretrained, **own}


def find_clip(model: str, pretrained: str, config: str | None = None, preprocess: str | None = None) -> ClipRow:
    """Checks the names and says what the model expects; loads no weights.

    Args:
        model: --clip-model. It is ignored if there is a `config`.
        pretrained: --pretrained, a tag of open_clip or a file.
        config: --clip-config, a JSON file with `embed_dim`, `vision_cfg` and `text_cfg` in open_clip's format, or with
            these below `model_cfg`, as the hub's open_clip_config.json. Either may have a `preprocess_cfg`.
        preprocess: --preprocess, see `preprocessing_of`; only for a file.

    Raises:
        UserError: a name or file does not exist, the weights were trained with another activation than the model's, or
            it is not known how the images of a file's weights are prepared.
    """
    own_preprocessing = None
    if config is not None:
        model, own_preprocessing = _own_architecture(config)
    elif model not in open_clip.list_models():
        raise unknown_name("--clip-model", model, open_clip.list_models(), "(or --clip-config FILE.json)")
    architecture = open_clip.get_model_config(model)
    tags = [] if config else open_clip.list_pretrained_tags_by_model(model)
    md5 = None
    if pretrained in tags:
        if preprocess is not None:
            asked = f"--preprocess {preprocess}: it is for weights that are given as a file."
            raise UserError(asked, f"The tag {pretrained} has its own preprocessing.", "Leave --preprocess out.")
        preprocessing = open_clip.get_pretrained_cfg(model, pretrained)
        _require_same_activation(model, pretrained, architecture, preprocessing)
    elif os.path.isfile(pretrained):
        preprocessing = preprocessing_of(model, tags, pretrained, preprocess, own_preprocessing)
        md5 = calculate_md5(pretrained)
    else:
        raise _no_weights(model, pretrained, tags)
    size = architecture["vision_cfg"].get("image_size", 224)
    if type(size) is not int or size < 1:
        asked = f"--clip-model {model}: a square input is needed, its side a whole number of pixels."
        raise UserError(asked, f"Its input is {size!r}.", "Choose another model.")
    return ClipRow(
        model,
        pretrained,
        config,
        size,
        tuple(preprocessing.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        tuple(preprocessing.get("std", open_clip.OPENAI_DATASET_STD)),
        squash=preprocessing.get("resize_mode", "shortest") != "shortest",
        bicubic=preprocessing.get("interpolation", "bicubic") == "bicubic",
        md5=md5,
        preprocess_text=md5 and spelled(preprocessing),
    )


def _own_architecture(config: str) -> tuple[str, dict | None]:
    """Makes an architecture known to open_clip, under its file's name; returns that name and its `preprocess_cfg`."""
    try:
        content = dict(json.loads(Path(config).read_text(encoding="utf-8")))
        preprocessing, architecture = content.pop("preprocess_cfg", None), content.get("model_cfg", content)
        kinds = {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}
        wrong = [key for key, kind in kinds.items() if not isinstance(dict(architecture).get(key), kind)]
        wrong += ["preprocess_cfg as an object"] * (not isinstance(preprocessing, dict | None))
        if wrong or Path(config).suffix != ".json":
            raise ValueError(f"no {', '.join(wrong)} in it" if wrong else "its name should end with .json")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"--clip-config {config}: a JSON file with embed_dim, vision_cfg and text_cfg is needed.",
            f"It is not one: {error}.",
            "See the files in open_clip/model_configs of the installed package for examples.",
        ) from None
    with TemporaryDirectory() as folder:  # open_clip reads the architecture from a file at once, and keeps it
        file = Path(folder, Path(config).name)
        file.write_text(json.dumps(architecture), encoding="utf-8")
        open_clip.add_model_config(file)
    return Path(config).stem, preprocessing


def _require_same_activation(model: str, tag: str, architecture: dict, weights: dict) -> None:
    """Refuses weights of another activation, if open_clip has the architecture with both activations."""
    trained, other = ("QuickGELU", "GELU") if weights.get("quick_gelu") else ("GELU", "QuickGELU")
    right = f"{model}-quickgelu" if trained == "QuickGELU" else model.removesuffix("-quickgelu")
    computes_trained = bool(architecture.get("quick_gelu")) == bool(weights.get("quick_gelu"))
    if not computes_trained and right != model and right in open_clip.list_models():
        raise UserError(
            f"--clip-model {model} --pretrained {tag}: the model must compute the activation of the weights.",
            f"These weights were trained with {trained}, this model computes {other}: its results would be wrong.",
            f"Type --clip-model {right} --pretrained {tag}",
        )


def _no_weights(model: str, pretrained: str, tags: Sequence[str]) -> UserError:
    nearest = get_close_matches(pretrained, tags, n=1, cutoff=0.5)
    return UserError(
        f"--pretrained {pretrained}: a file, or a tag of the weights for {model}, is needed.",
        f"It is no file. Known tags: {', '.join(tags) or 'none for this model'}.",
        f"Did you mean --pretrained {nearest[0]}?" if nearest else "Check the path, or choose a known tag.",
    )
