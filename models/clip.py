"""CLIP as a frozen classifier: images -> logits over a bank of text prompts (Radford et al., ICML 2021).

A text prompt is a source label like any other. With 81 templates and T classes there are S = 81 x T of them. The text
prompt of template i and class t has the index i * T + t.
"""

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from errors import UserError
from models.clip_source import ClipRow, find_clip
from models.clip_weights import build_clip
from models.networks import Execution, Network
from models.weights_file import weights_hash

TEMPLATES = ("This is a photo of a {}.", *(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES))
_MOST = math.log(100)  # CLIP's own bound of logit_scale


def text_prompts(templates: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """All templates, filled with all class names at `{}`; the texts of the first template come first."""
    return [template.replace("{}", name) for template in templates for name in class_names]


class Clip(Network):
    """Images (B,3,H,W) in [0,1] -> logits (B,S) float32: exp(logit_scale) * cosine(image, text prompt).

    Args:
        body: the image encoder, normalised images -> (B,D).
        row: the description of this CLIP.
        bank: (S,D) float32, the text prompts' unit embeddings times exp(logit_scale).
        names: names of the S source labels: the text prompts, or the class names if several templates are averaged.
        run, setup: as in `Network`.

    Attributes:
        preprocess: CLIP's own resize and crop, torchvision transforms.
    """

    def __init__(
        self, body: nn.Module, row: ClipRow, bank: Tensor, names: Sequence[str], run: Execution, setup: dict[str, Any]
    ):
        super().__init__(body, row, run, frozen=True, setup=setup)
        self.class_names, self.preprocess = tuple(names), row.preprocess
        self.register_buffer("bank", bank)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(super().forward(x), dim=1) @ self.bank.T

    def over(self, bank: Tensor, names: Sequence[str]) -> "Clip":
        """The same CLIP over other source labels, with this bank and these names. Both share the image encoder."""
        other = copy.copy(self)
        other._buffers, other.class_names = self._buffers | {"bank": bank}, tuple(names)
        return other


def load_clip(
    which, run: Execution, templates: Sequence[str], class_names: Sequence[str], *, ensemble: bool = False
) -> Clip:
    """Loads a CLIP and encodes its text prompts, once and in float32.

    Args:
        which: has the attributes `clip_model`, `pretrained`, `clip_config` and `preprocess`: the values of these flags.
        run: where and how it computes.
        templates, class_names: each template with each class is a text prompt and a source label (`text_prompts`).
        ensemble: average a class's embeddings over the templates. The classes are then the source labels.

    Raises:
        UserError: a name is unknown, the weights or the tokenizer cannot be loaded, or two text prompts have the same
            tokens.
    """
    row = find_clip(which.clip_model, which.pretrained, which.clip_config, which.preprocess)
    return build_classifier(row, run, text_prompts(templates, class_names), templates, class_names if ensemble else ())


def load_clip_of_texts(which, run: Execution, texts: Sequence[str]) -> Clip:
    """The same over texts that follow no template. Each is a source label; several may have the same tokens."""
    row = find_clip(which.clip_model, which.pretrained, which.clip_config, which.preprocess)
    run.identify(texts=hashlib.md5("\n".join(texts).encode()).hexdigest())
    return build_classifier(row, run, texts)


def build_classifier(
    row: ClipRow, run: Execution, texts: Sequence[str], templates: Sequence[str] = (), averaged: Sequence[str] = ()
) -> Clip:
    """The classifier over `texts`. If `averaged` names classes, it averages the texts of each over the templates.

    The setup names the templates that the texts were made of. Without templates it has the texts themselves.
    """
    model, tokenize = build_clip(row)
    weights = weights_hash(model, row.mean, row.std, row.input_size)
    run.identify(weights=weights)
    tokens = tokens_of(texts, tokenize) if templates else tokenize(list(texts))
    bank = encode_texts(model.to(run.device), tokens)
    if averaged:
        bank = F.normalize(bank.view(len(templates), -1, bank.shape[1]).mean(0), dim=1)
    scale = math.exp(min(model.logit_scale.item(), _MOST))
    made_of = {"templates": list(templates), "ensemble": bool(averaged)} if templates else {"texts": list(texts)}
    setup = {"clip": row.names | made_of, "weights": weights}
    return Clip(model.visual, row, scale * bank, averaged or texts, run, setup)


def tokens_of(texts: Sequence[str], tokenize: Callable[[list[str]], Tensor]) -> Tensor:
    """(len(texts), context length) int64.

    Raises:
        UserError: different texts have the same tokens. Long texts are cut at the context length.
    """
    tokens = tokenize(list(texts))
    _, which = tokens.unique(dim=0, return_inverse=True)
    first: dict[int, str] = {}
    for text, row in zip(texts, which.tolist(), strict=True):
        if first.setdefault(row, text) != text:
            raise UserError(
                f"Two text prompts must differ in the first {tokens.shape[1]} tokens, which CLIP reads.",
                f"These have the same tokens: '{first[row]}' and '{text}'.",
                "Choose a shorter --template, or rename these classes.",
            )
    return tokens


def name_similarities(which, run: Execution, source_names: Sequence[str], target_names: Sequence[str]) -> Tensor:
    """(S,T) float32 on the CPU: the cosines of CLIP's text embeddings of the bare names.

    Names that differ only in capitals have the same embedding, such as ImageNet's dog Cardigan and its garment.

    Args:
        which, run: as in `load_clip`. The run is told the weights as `name_clip_weights`.
    """
    model, tokenize = build_clip(find_clip(which.clip_model, which.pretrained, which.clip_config, which.preprocess))
    run.identify(name_clip_weights=weights_hash(model))
    model.to(run.device)
    sources, targets = (encode_texts(model, tokenize(list(names))) for names in (source_names, target_names))
    return (sources @ targets.T).cpu()


@torch.no_grad()
def encode_texts(model: nn.Module, tokens: Tensor, chunk: int = 256) -> Tensor:
    """Unit embeddings (S,D) float32 of tokenized texts (S,L), `chunk` of them at a time, on the model's device."""
    device = model.logit_scale.device
    chunks = tqdm(tokens.split(chunk), desc="text prompts", unit="chunk", leave=False)
    return torch.cat([F.normalize(model.encode_text(part.to(device)).float(), dim=1) for part in chunks])


def load_image_encoder(which, run: Execution, *, num_classes: int = 0, frozen: bool = True) -> Network:
    """CLIP's image encoder alone: images (B,3,H,W) in [0,1] -> embeddings (B,D), before they are made unit vectors.

    Args:
        which, run: as in `load_clip`.
        num_classes: T > 0 adds a new linear layer, the output is (B,T).
        frozen: as in `Network`.

    Attributes of the result: `preprocess`, as in `Clip`.
    """
    row = find_clip(which.clip_model, which.pretrained, which.clip_config, which.preprocess)
    return build_encoder(row, run, num_classes, frozen)


def build_encoder(row: ClipRow, run: Execution, num_classes: int, frozen: bool) -> Network:
    """`load_image_encoder` for a row."""
    model = build_clip(row)[0]
    body, weights = model.visual, weights_hash(model, row.mean, row.std, row.input_size)
    run.identify(weights=weights)
    if num_classes:
        with torch.no_grad():
            features = body.eval()(torch.zeros(1, 3, row.input_size, row.input_size)).shape[1]
        body = nn.Sequential(body, nn.Linear(features, num_classes))
    setup = {"clip": row.names | {"templates": [], "ensemble": False}}
    setup |= {"loading": {"num_classes": num_classes, "frozen": frozen}, "weights": weights}
    network = Network(body, row, run, frozen=frozen, setup=setup)
    network.preprocess = row.preprocess
    return network
