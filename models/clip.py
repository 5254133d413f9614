"""CLIP as a frozen classifier: images -> logits over a bank of text prompts (Radford et al., ICML 2021).

A text prompt is a source label like any other: with 81 templates and T classes there are S = 81 x T of them, the text
prompt of template i and class t at position i * T + t.
"""

import json
import math
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from urllib.error import HTTPError

import huggingface_hub
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from errors import UserError, unknown_name
from models.fold import fold_batch_norm
from models.networks import Network

TEMPLATES = ("This is a photo of a {}.", *(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES))
_HUB_FILE = "open_clip_model.safetensors"
_MOST = math.log(100)  # CLIP's own bound of logit_scale


def text_prompts(templates: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """Every template with every class name in place of its `{}`, template by template."""
    return [template.replace("{}", name) for template in templates for name in class_names]


@dataclass(frozen=True)
class ClipRow:
    """One CLIP, not loaded yet: what it is made of, and the images that it expects.

    Args:
        model: open_clip's name of the architecture.
        pretrained: open_clip's tag of the weights, or a file.
        config: a JSON file with the architecture, for one that open_clip does not know.
        input_size: side of its input in pixels.
        mean, std: of its normalisation.
        preprocessing: the rest of its own preprocessing, as `data.transforms.Transform` takes it.
    """

    model: str
    pretrained: str
    config: str | None
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preprocessing: dict[str, int | bool]
    class_names: tuple[str, ...] = ()

    def settings(self, templates: Sequence[str] = (), *, ensemble: bool = False) -> dict:
        """What a checkpoint has to say so that the same classifier can be built again, in plain values."""
        names = {"model": self.model, "pretrained": self.pretrained, "config": self.config}
        return {"clip": names | {"templates": list(templates), "ensemble": ensemble}}


class Clip(Network):
    """Images (B,3,H,W) in [0,1] -> logits (B,S) float32: exp(logit_scale) * cosine(image, text prompt).

    Args:
        body: the image encoder, normalised images -> (B,D).
        row: where it comes from; the text prompts are its class names.
        bank: (S,D) float32, the text prompts' unit embeddings times exp(logit_scale).
    """

    def __init__(self, body: nn.Module, row: ClipRow, bank: Tensor, texts: Sequence[str], precision: str):
        super().__init__(body, row, frozen=True, precision=precision)
        self.class_names = tuple(texts)
        self.register_buffer("bank", bank)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(super().forward(x), dim=1) @ self.bank.T


def load_clip(
    row: ClipRow,
    texts: Sequence[str],
    *,
    ensemble_of: int = 1,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    plain: bool = False,
) -> Clip:
    """Loads a CLIP and encodes its text prompts, once.

    Args:
        texts: the S text prompts, or with `ensemble_of` = n the n * S of n templates, whose embeddings are averaged.
        device, precision, plain: as in `load_network`. The text prompts are always encoded in float32.

    Raises:
        UserError: weights or tokenizer cannot be had.
    """
    model, tokenize = _build(row, texts[:1])
    bank = encode_texts(model.to(device), tokenize, texts)
    bank = F.normalize(bank.view(ensemble_of, -1, bank.shape[1]).mean(0), dim=1)
    scale = math.exp(min(model.logit_scale.item(), _MOST))
    clip = Clip(model.visual, row, scale * bank, texts[: len(bank)], precision)
    return _placed(clip, device, plain)


@torch.no_grad()
def encode_texts(model: nn.Module, tokenize, texts: Sequence[str], chunk: int = 256) -> Tensor:
    """Unit embeddings (len(texts), D) float32 of texts, `chunk` of them at a time, on the model's device."""
    device, parts = model.logit_scale.device, []
    for start in tqdm(range(0, len(texts), chunk), desc="text prompts", unit="chunk", leave=False):
        tokens = tokenize(list(texts[start : start + chunk])).to(device)
        parts.append(F.normalize(model.encode_text(tokens).float(), dim=1))
    return torch.cat(parts)


def load_image_encoder(
    row: ClipRow,
    *,
    num_classes: int = 0,
    frozen: bool = True,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    plain: bool = False,
) -> Network:
    """CLIP's image encoder alone: images (B,3,H,W) in [0,1] -> embeddings (B,D), before they are made unit vectors.

    Args:
        num_classes: T > 0 adds a new linear layer, the output is (B,T).
        device, precision, plain, frozen: as in `load_network`.
    """
    body = _build(row, ["text"])[0].visual
    if num_classes:
        with torch.no_grad():
            features = body.eval()(torch.zeros(1, 3, row.input_size, row.input_size)).shape[1]
        body = nn.Sequential(body, nn.Linear(features, num_classes))
    return _placed(Network(body, row, frozen=frozen, precision=precision), device, plain)


def _placed(network: Network, device: torch.device | str, plain: bool) -> Network:
    if not plain:
        if network.frozen:
            fold_batch_norm(network.body)
        network.to(memory_format=torch.channels_last)
    return network.to(device)


# Which CLIP, and where it comes from ------------------------------------------------------------------------------


def find_clip(model: str, pretrained: str, config: str | None = None) -> ClipRow:
    """Checks the names and says what the model expects; loads no weights.

    Args:
        model: --clip-model; of no concern where there is a `config`.
        pretrained: --pretrained, a tag of open_clip's or a file.
        config: --clip-config, a JSON file that holds `embed_dim`, `vision_cfg` and `text_cfg` as open_clip's do.

    Raises:
        UserError: unknown names, no such file, or weights that were trained with another activation than the model's.
    """
    if config is not None:
        model = _own_architecture(config)
    elif model not in open_clip.list_models():
        raise unknown_name("--clip-model", model, open_clip.list_models(), "(or --clip-config FILE.json)")
    architecture = open_clip.get_model_config(model)
    tags = [] if config else open_clip.list_pretrained_tags_by_model(model)
    if pretrained in tags:
        preprocessing = open_clip.get_pretrained_cfg(model, pretrained)
        _require_same_activation(model, pretrained, architecture, preprocessing)
    elif Path(pretrained).is_file():  # prepared like the weights that are published for this architecture, if any are
        preprocessing = open_clip.get_pretrained_cfg(model, tags[0]) if tags else {}
    else:
        raise _no_weights(model, pretrained, tags)
    size = architecture["vision_cfg"].get("image_size", 224)
    if not isinstance(size, int):
        raise UserError(f"--clip-model {model}: square images are needed.", f"Its input is {size}.", "Choose another.")
    shorter = preprocessing.get("resize_mode", "shortest") == "shortest"
    return ClipRow(
        model,
        pretrained,
        config,
        size,
        tuple(preprocessing.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        tuple(preprocessing.get("std", open_clip.OPENAI_DATASET_STD)),
        {"shorter": shorter, "bicubic": preprocessing.get("interpolation", "bicubic") == "bicubic"},
    )


def _own_architecture(config: str) -> str:
    """Makes an architecture known to open_clip, under its file's name; returns that name."""
    try:
        content = json.loads(Path(config).read_text(encoding="utf-8"))
        missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in content]
        if missing or Path(config).suffix != ".json":
            raise ValueError(f"{', '.join(missing)} missing" if missing else "its name should end with .json")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"--clip-config {config}: a JSON file with embed_dim, vision_cfg and text_cfg is needed.",
            f"It is not one: {error}.",
            "See the files in open_clip/model_configs of the installed package for examples.",
        ) from None
    open_clip.add_model_config(config)
    return Path(config).stem


def _require_same_activation(model: str, tag: str, architecture: dict, weights: dict) -> None:
    """Where an architecture exists in both kinds; of one that does not, its configuration is right."""
    trained, other = ("QuickGELU", "GELU") if weights.get("quick_gelu") else ("GELU", "QuickGELU")
    right = f"{model}-quickgelu" if trained == "QuickGELU" else model.removesuffix("-quickgelu")
    computes_trained = bool(architecture.get("quick_gelu")) == bool(weights.get("quick_gelu"))
    if not computes_trained and right != model and right in open_clip.list_models():
        raise UserError(
            f"--clip-model {model} --pretrained {tag}: the activation has to be the one that the weights know.",
            f"These weights were trained with {trained}, this model computes {other}: its results would be wrong.",
            f"Type --clip-model {right} --pretrained {tag}",
        )


def _no_weights(model: str, pretrained: str, tags: Sequence[str]) -> UserError:
    nearest = get_close_matches(pretrained, tags, n=1, cutoff=0.5)
    return UserError(
        f"--pretrained {pretrained}: a file, or a tag of the weights for {model}, is needed.",
        f"There is no such file. Known tags: {', '.join(tags) or 'none for this model'}.",
        f"Did you mean --pretrained {nearest[0]}?" if nearest else "Check the path, or choose a known tag.",
    )


def _build(row: ClipRow, example: Sequence[str]) -> tuple[nn.Module, object]:
    """open_clip's model with its weights, on the CPU in float32, and its tokenizer, which has proved that it works."""
    file = _weights(row)
    try:
        model = open_clip.create_model(row.model, pretrained=str(file), weights_only=True)
        if hasattr(model.visual, "output_tokens"):
            model.visual.output_tokens = False  # CoCa's encoder would give every patch's embedding beside the image's
    except Exception as error:  # a foreign or damaged file raises nearly anything
        raise UserError(
            f"{file}: weights for {row.model} are needed: tensors, no TorchScript archive.",
            f"They cannot be read: {' '.join(str(error).split())[:300] or type(error).__name__}",
            "Give another --pretrained, or the --clip-model (or --clip-config) of this file.",
        ) from None
    try:
        tokenize = open_clip.get_tokenizer(row.model)
        tokenize(list(example))
    except Exception as error:  # some models take a tokenizer of the package transformers, or download one
        raise UserError(
            f"--clip-model {row.model}: it has a tokenizer of its own.",
            f"That cannot be had: {' '.join(str(error).split())[:300]}",
            "Type: pip install transformers sentencepiece (and try again with a network connection).",
        ) from None
    return model.eval(), tokenize


def _weights(row: ClipRow) -> Path:
    """The file of the weights: the user's own, the hub's cache, or a download."""
    published = open_clip.get_pretrained_cfg(row.model, row.pretrained) if row.config is None else {}
    if not published:
        return Path(row.pretrained)
    repository, _, name = published.get("hf_hub", "").rpartition("/")
    url = huggingface_hub.hf_hub_url(repository, name or _HUB_FILE) if repository else published["url"]
    cached = repository and huggingface_hub.try_to_load_from_cache(repository, name or _HUB_FILE)
    if isinstance(cached, str):
        return Path(cached)
    try:  # one request first: the hub's own client would retry a missing connection for a minute and a half
        with suppress(HTTPError):  # an answer all the same; the file may have another name there
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
        return Path(open_clip.download_pretrained(published))
    except Exception as error:  # the hub's client has its own kinds beside OSError
        raise UserError(
            f"--clip-model {row.model} --pretrained {row.pretrained}: its weights could not be downloaded.",
            f"{url}: {error}",
            f"Download that file elsewhere, then type --clip-model {row.model} --pretrained FILE",
        ) from None
