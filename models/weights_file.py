"""Files of weights: what identifies the weights in them, and why one cannot be read."""

import hashlib
import pickle
import re
from typing import Any

import torch
from torch import nn


def weights_hash(body: nn.Module, *normalisation: Any) -> str:
    """The first 16 hexadecimal digits of a SHA-256 over all parameters and persistent buffers, in the module's order.

    Types, shapes and bytes count; the names do not, as they differ between packages. Equal weights have an equal hash,
    whatever file they come from. The 100 MB of a ResNet-50 take less than 0.1 s. Call it before the network is folded,
    moved, or gets a new last layer.

    Args:
        normalisation: plain values that count too: the same weights behind another normalisation are another network.
    """
    digest = hashlib.sha256(repr(normalisation).encode())
    for tensor in body.state_dict().values():
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def why_unreadable(error: Exception) -> str:
    """One sentence for what torch or safetensors raised. Torch's own advice, to read the file unsafely, is left out."""
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error))
    if "nsupported" in text or "not an allowed" in text or "unrecognized function" in text:
        named = re.search(r"GLOBAL ([\w.]+)", text)
        found = f" ({named[1]})" if named else ""
        return f"it holds more than tensors{found}; save its state_dict alone: torch.save(model.state_dict(), FILE)."
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged, or no file of weights."
    return " ".join(text.split())[:300] or type(error).__name__
