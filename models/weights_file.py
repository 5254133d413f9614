"""Files of weights: what identifies the weights in them, and why one cannot be read."""

import hashlib
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

_YOUNG = "num_batches_tracked"  # files from before 2018 have no such tensors, and torch does without them


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


def read_state(file: Path) -> dict[str, Tensor]:
    """The state dict in a file: tensors by their names, on the CPU. No code in the file is executed.

    The file is .safetensors, or what torch.save wrote: the state dict alone, or a dict with one in it. Prefixes that
    data parallelism, torch.compile and full_finetune.py put before all names are left out.

    Raises:
        ValueError: it holds no state dict, or several.
        Others: what torch or safetensors raise for a file that is missing or damaged, or holds more than tensors.
    """
    if file.suffix == ".safetensors":
        content = load_file(file)
    else:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if any(name.endswith("/constants.pkl") for name in archive.namelist()):  # torch 2.4 would run its code
                    raise ValueError("it is a TorchScript archive, which may hold code; save its state_dict alone.")
        content = torch.load(file, map_location="cpu", weights_only=True)
    states = {"": content} if _is_state(content) else {}
    if not states and isinstance(content, dict):
        states = {str(key): value for key, value in content.items() if _is_state(value)}
    if len(states) != 1:
        found = f"{len(states)} state dicts ({', '.join(states)})" if states else "no state dict"
        raise ValueError(f"it holds {found}; save one alone: torch.save(model.state_dict(), FILE).")
    (state,) = states.values()
    for prefix in ("module.", "_orig_mod.", "body."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _is_state(content: Any) -> bool:
    if not isinstance(content, dict) or not content:
        return False
    return all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items())


def state_differences(body: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """What keeps `state` from being loaded into `body`, one sentence a tensor, in the network's order."""
    own = body.state_dict()
    differing = [f"{name} is missing" for name in own if name not in state and not name.endswith(_YOUNG)]
    for name, tensor in state.items():
        if name not in own:
            differing.append(f"{name} is unknown to the network")
        elif tensor.shape != own[name].shape:
            differing.append(f"{name} is {tuple(tensor.shape)}, not {tuple(own[name].shape)}")
    return differing


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
