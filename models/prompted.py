"""A frozen classifier, reprogrammed."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.shared_border import share_border


class Prompted(nn.Module):
    """mapping . f . h: images (B,3,h,w) in [0,1] -> target logits (B,T).

    Args:
        prompt: h, images (B,3,h,w) -> (B,3,H,W).
        network: f, (B,3,H,W) -> source logits (B,S), frozen.
        num_target: T.

    Attributes:
        share: compute the border of a prompt that pads the images once a batch (`share_border`): the same function and
            gradients, faster. True where prompt and network allow it.

    State: `mapping` (T,) int64, the source label of each target label; -1 until `set_mapping` is called.
    """

    def __init__(self, prompt: nn.Module, network: nn.Module, num_target: int):
        super().__init__()
        self.prompt, self.network = prompt, network
        self.share = getattr(network, "shares_border", False) and hasattr(prompt, "padding")
        self.register_buffer("mapping", torch.full((num_target,), -1))

    def source_logits(self, x: Tensor) -> Tensor:
        return self.network(share_border(self.prompt, x) if self.share else self.prompt(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.source_logits(x)[:, self.mapping]

    @torch.no_grad()
    def set_mapping(self, mapping: Tensor) -> float:
        """Replaces the map; returns the share of targets, in [0,1], whose source label changed."""
        changed = int((self.mapping != mapping.to(self.mapping.device)).sum())
        self.mapping.copy_(mapping)
        return changed / len(mapping)

    def named_mapping(self, source_names: Sequence[str], target_names: Sequence[str]) -> dict[str, str]:
        """The map in words: target class -> source class."""
        return dict(zip(target_names, [source_names[source] for source in self.mapping.tolist()], strict=True))
