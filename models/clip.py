"""CLIP as a frozen classifier: images -> logits over a bank of text prompts (Radford et al., ICML 2021).

A text prompt is a source label like any other: with 81 templates and T classes there are S = 81 x T of them, the text
prompt of template i and class t at position i * T + t.
"""

import math
from collections.abc import Callable, Sequence

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from errors import UserError
from models.clip_source import ClipRow, build_clip
from models.networks import Network, placed

TEMPLATES = ("This is a photo of a {}.", *(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES))
_MOST = math.log(100)  # CLIP's own bound of logit_scale


def text_prompts(templates: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """Every template with every class name in place of its `{}`, template by template."""
    return [template.replace("{}", name) for template in templates for name in class_names]


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
    compiled: bool = False,
) -> Clip:
    """Loads a CLIP and encodes its text prompts, once.

    Args:
        texts: the S text prompts, or with `ensemble_of` = n the n * S of n templates, whose embeddings are averaged.
        device, precision, plain, compiled: as in `load_network`. The text prompts are always encoded in float32.

    Raises:
        UserError: weights or tokenizer cannot be had, or two text prompts are the same to the tokenizer.
    """
    model, tokenize = build_clip(row)
    bank = encode_texts(model.to(device), tokens_of(texts, tokenize))
    bank = F.normalize(bank.view(ensemble_of, -1, bank.shape[1]).mean(0), dim=1)
    scale = math.exp(min(model.logit_scale.item(), _MOST))
    clip = Clip(model.visual, row, scale * bank, texts[: len(bank)], precision)
    return placed(clip, device, plain, compiled)


def tokens_of(texts: Sequence[str], tokenize: Callable[[list[str]], Tensor]) -> Tensor:
    """(len(texts), context length) int64.

    Raises:
        UserError: different texts have the same tokens, as long ones do that are cut at the context length.
    """
    tokens = tokenize(list(texts))
    _, which = tokens.unique(dim=0, return_inverse=True)
    first: dict[int, str] = {}
    for text, row in zip(texts, which.tolist(), strict=True):
        if first.setdefault(row, text) != text:
            raise UserError(
                f"Every text prompt has to be another one to the tokenizer, which reads {tokens.shape[1]} tokens.",
                f"These are the same to it: '{first[row]}' and '{text}'.",
                "Choose a shorter --template, or rename these classes.",
            )
    return tokens


@torch.no_grad()
def encode_texts(model: nn.Module, tokens: Tensor, chunk: int = 256) -> Tensor:
    """Unit embeddings (S,D) float32 of tokenized texts (S,L), `chunk` of them at a time, on the model's device."""
    device = model.logit_scale.device
    chunks = tqdm(tokens.split(chunk), desc="text prompts", unit="chunk", leave=False)
    return torch.cat([F.normalize(model.encode_text(part.to(device)).float(), dim=1) for part in chunks])


def load_image_encoder(
    row: ClipRow,
    *,
    num_classes: int = 0,
    frozen: bool = True,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    plain: bool = False,
    compiled: bool = False,
) -> Network:
    """CLIP's image encoder alone: images (B,3,H,W) in [0,1] -> embeddings (B,D), before they are made unit vectors.

    Args:
        num_classes: T > 0 adds a new linear layer, the output is (B,T).
        device, precision, plain, compiled, frozen: as in `load_network`.
    """
    body = build_clip(row)[0].visual
    if num_classes:
        with torch.no_grad():
            features = body.eval()(torch.zeros(1, 3, row.input_size, row.input_size)).shape[1]
        body = nn.Sequential(body, nn.Linear(features, num_classes))
    return placed(Network(body, row, frozen=frozen, precision=precision), device, plain, compiled)
