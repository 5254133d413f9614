"""Finds a CLIP: checks its names, tells what images it expects, and loads its weights from this machine or the net."""

import hashlib
import json
import os
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import HTTPError

import huggingface_hub
import open_clip
import torch
from torch import Tensor, nn
from torchvision.datasets.utils import calculate_md5
from torchvision.transforms import v2

from errors import UserError, in_short, unknown_name
from models.clip_preprocess import preprocessing_of, spelled
from models.network_row import checkpoint_folder
from models.weights_file import read_state, state_differences, why_unreadable

_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# OpenAI's weights are TorchScript archives. The URLs at which OpenAI publishes them contain their SHA-256.
OPENAI_SHA256 = {
    Path(open_clip.get_pretrained_cfg(model, "openai")["url"]).parent.name
    for model, tag in open_clip.list_pretrained()
    if tag == "openai"
}
_OPENAI_ENTRIES = {"input_resolution", "context_length", "vocab_size"}


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


def build_clip(row: ClipRow) -> tuple[nn.Module, Callable[[list[str]], Tensor]]:
    """open_clip's model with its weights, on the CPU in float32, and its tokenizer, which was tried on one text."""
    file = _weights(row)
    try:
        if (state := _openai_state(file)) is None:
            model = open_clip.create_model(row.model, pretrained=str(file), weights_only=True)
        else:
            model = open_clip.CLIP(**open_clip.get_model_config(row.model))
            model.load_state_dict(state)
        if hasattr(model.visual, "output_tokens"):
            model.visual.output_tokens = False  # else CoCa's encoder also returns each patch's embedding
    except Exception as error:  # a foreign or damaged file raises nearly anything
        raise UserError(
            f"{file}: weights for {row.model} are needed.",
            f"They cannot be read: {_why_not(row.model, file, error)}",
            "Give another --pretrained, or the --clip-model (or --clip-config) of this file.",
        ) from None
    try:
        tokenize = open_clip.get_tokenizer(row.model)
        tokenize(["a text"])
    except Exception as error:  # some tokenizers need the package transformers, or a download
        raise UserError(
            f"--clip-model {row.model}: its tokenizer is needed.",
            f"It cannot be loaded: {' '.join(str(error).split())[:300]}",
            "Type: pip install transformers sentencepiece (and try again with a network connection).",
        ) from None
    return model.eval(), tokenize


def _why_not(model: str, file: Path, error: Exception) -> str:
    """Why weights cannot be loaded. Of another architecture's, open_clip's own reason may be anything."""
    with suppress(Exception):
        body = open_clip.create_model(model, load_weights=False)
        if differing := state_differences(body, read_state(file)):
            return f"they are of another architecture ({in_short(differing, 3)})."
    return why_unreadable(error)


def _openai_state(file: Path) -> dict[str, Tensor] | None:
    """The tensors of a file in OpenAI's own format, without three entries that no model has; None for other formats.

    Every file but safetensors is read here first, with `weights_only`: open_clip falls back to reading without it.

    Raises:
        ValueError: a TorchScript archive that OpenAI did not publish. It may hold code.
        Others: what torch.load raises for a damaged file, or for one that holds more than tensors.
    """
    if file.suffix in (".safetensors", ".npz", ".npy"):
        return None
    names: list[str] = []
    if is_zip := zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        if _sha256(file) not in OPENAI_SHA256:
            raise ValueError("it is a TorchScript archive, which may hold code, and none that OpenAI published")
        state = torch.jit.load(file, map_location="cpu").state_dict()
    else:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
        if not isinstance(state, dict) or not state.keys() >= _OPENAI_ENTRIES:
            return None
    return {name: value for name, value in state.items() if name not in _OPENAI_ENTRIES}


@cache
def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while chunk := content.read(2**24):
            digest.update(chunk)
    return digest.hexdigest()


def _weights(row: ClipRow) -> Path:
    """The file of the weights: the user's own, a file in torch's folder, OpenAI's or the hub's cache, or a download."""
    if row.md5:
        return Path(row.pretrained)
    published = open_clip.get_pretrained_cfg(row.model, row.pretrained)
    repository, _, name = published.get("hf_hub", "").rpartition("/")
    names = [name] if name else _HUB_FILES
    url = huggingface_hub.hf_hub_url(repository, names[0]) if repository else published["url"]
    by_hand = checkpoint_folder() / f"{row.model}-{row.pretrained}{Path(url).suffix}"
    if by_hand.is_file():
        return by_hand
    openai = Path("~/.cache/clip").expanduser() / Path(published.get("url", "")).name  # where OpenAI's package puts it
    if row.pretrained == "openai" and openai.is_file() and _sha256(openai) in OPENAI_SHA256:  # not one cut off
        return openai
    for cached in (huggingface_hub.try_to_load_from_cache(repository, name) for name in names if repository):
        if isinstance(cached, str):
            return Path(cached)
    try:  # one request first: the hub's own client would retry a missing connection for a minute and a half
        with suppress(HTTPError):  # any answer shows a connection; the file may have another name there
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
        return Path(open_clip.download_pretrained(published))
    except Exception as error:  # the hub's client raises errors of its own, too
        raise UserError(
            f"--clip-model {row.model} --pretrained {row.pretrained}: its weights could not be downloaded ({error}).",
            f"Looked for {by_hand}.",
            f"Download {url} elsewhere and put it there, under that name.",
        ) from None
