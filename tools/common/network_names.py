"""Networks' names in folders and receipts. Files of one's own are known by their content, not by their path."""

import hashlib
import os
from functools import cache
from pathlib import Path

from tools.common.flag_types import split_network


@cache
def network_name(text: str) -> str:
    """The name of a --network in folders and receipts. Files of one's own are known by the start of their md5."""
    from torchvision.datasets.utils import calculate_md5  # late: slow to import, and seldom needed

    head, path = split_network(text)
    if not os.path.exists(path):
        return text
    files = [Path(path, name) for name in ("config.json", "model.safetensors", "pytorch_model.bin")]
    sums = [calculate_md5(file) for file in ([path] if os.path.isfile(path) else files) if os.path.isfile(file)]
    md5 = sums[0] if len(sums) == 1 else hashlib.md5("".join(sums).encode()).hexdigest()
    return f"{head}{Path(path).stem}-{md5[:6]}"


def clip_name(model: str, pretrained: str, config: str | None) -> str:
    """The name of a CLIP in folders and receipts. A file's name is followed by the start of its md5."""
    from torchvision.datasets.utils import calculate_md5  # late: slow to import, and seldom needed

    architecture = Path(config).stem if config else model
    if not os.path.isfile(pretrained):
        return f"{architecture}-{pretrained}"
    weights = Path(pretrained).stem.removeprefix(architecture).strip("-")
    return "-".join(filter(None, (architecture, weights, calculate_md5(pretrained)[:6])))
