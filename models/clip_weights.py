"""Loads a CLIP: its weights from this machine or the net, into open_clip's model, and its tokenizer."""

import hashlib
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import huggingface_hub
import open_clip
import torch
from torch import Tensor, nn

from errors import UserError, in_short
from models.clip_source import ClipRow
from models.network_row import checkpoint_folder, require_connection
from models.weights_file import read_state, state_differences, why_unreadable

_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# OpenAI's weights are TorchScript archives. The URLs at which OpenAI publishes them contain their SHA-256.
OPENAI_SHA256 = {
    Path(open_clip.get_pretrained_cfg(model, "openai")["url"]).parent.name
    for model, tag in open_clip.list_pretrained()
    if tag == "openai"
}
_OPENAI_ENTRIES = {"input_resolution", "context_length", "vocab_size"}


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
    try:
        require_connection(url)
        return Path(open_clip.download_pretrained(published))
    except Exception as error:  # the hub's client raises errors of its own, too
        raise UserError(
            f"--clip-model {row.model} --pretrained {row.pretrained}: its weights could not be downloaded ({error}).",
            f"Looked for {by_hand}.",
            f"Download {url} elsewhere and put it there, under that name.",
        ) from None
