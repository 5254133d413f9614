"""A frozen classifier, reprogrammed."""

import torch
from torch import Tensor, nn


class Prompted(nn.Module):
    """mapping . f . h: images (B,3,h,w) in [0,1] -> target logits (B,T).

    Args:
        prompt: h, images (B,3,h,w) -> (B,3,H,W).
        network: f, (B,3,H,W) -> source logits (B,S), frozen.
        mapping: (T,) int64, the source label of each target label; changed in place by `set_mapping`.
    """

    def __init__(self, prompt: nn.Module, network: nn.Module, mapping: Tensor):
        super().__init__()
        self.prompt, self.network = prompt, network
        self.register_buffer("mapping", mapping.clone())

    def source_logits(self, x: Tensor) -> Tensor:
        return self.network(self.prompt(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.source_logits(x)[:, self.mapping]

    @torch.no_grad()
    def set_mapping(self, mapping: Tensor) -> float:
        """Replaces the map; returns the share of targets, in [0,1], whose source label changed."""
        changed = (self.mapping != mapping.to(self.mapping.device)).float().mean().item()
        self.mapping.copy_(mapping)
        return changed
