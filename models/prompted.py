"""The whole model: prompt, network and output mapping."""

from typing import Any

import torch
from torch import Tensor, nn

from errors import UserError
from models.graphed import graphed
from models.output_mapping import SelectLabels
from models.part import Part
from models.shared_border import share_border


class Prompted(nn.Module):
    """mapping . f . h: images (B,3,h,w) in [0,1] -> target logits (B,T).

    Args:
        prompt: h, images (B,3,h,w) -> (B,3,H,W). It is moved to the network's device. If it has a method `ask(network,
            x)` instead, this gives the source logits (B,S). It may ask the network, a function, more than once.
        network: f, (B,3,H,W) -> source logits (B,S).
        mapping: source logits (B,S) -> target logits (B,T). It is moved to the network's device.

    Attributes:
        graphed: `source_logits` as CUDA graphs (`Graphed`), or None. `--cuda-graph` decides it.
        shares_border: whether the border of a prompt with `constant_border` is computed once a batch (`share_border`).
            The function and its gradients are the same. `--share-border`, `--cuda-graph` and `--plain` decide it.

    Raises:
        UserError: the network has fewer source labels than there are targets, prompt or mapping is no `Part`, prompt or
            network cannot be recorded as `--cuda-graph` asks (`graphed`), or (in a forward pass) the prompt's images
            are not as large as the network's input.
    """

    def __init__(self, prompt: nn.Module, network: nn.Module, mapping: nn.Module):
        super().__init__()
        for part in (prompt, mapping):
            if not isinstance(part, Part):
                name = type(part).__name__
                asked = f"{name}: a prompt or an output mapping has to inherit from Part (models/part.py)."
                raise UserError(asked, "It does not.", f"Write: class {name}(Part)")
        num_sources = mapping.sources.shape[1]
        learns = any(True for _ in mapping.parameters())  # a layer may take each source label for several targets
        if not learns and mapping.num_target * num_sources > len(network.class_names):
            several = f" Each class needs {num_sources}." if num_sources > 1 else ""
            raise UserError(
                "Every target class needs source classes of its own.",
                f"The data set has {mapping.num_target} classes, the network {len(network.class_names)}.{several}",
                "Use linear_probing.py or full_finetune.py, a data set with fewer classes, or fewer --sources.",
            )
        self.network = network
        self.prompt, self.mapping = prompt.to(network.mean.device), mapping.to(network.mean.device)
        self.graphed = graphed(self._source_logits, self.prompt, network)
        shared = self.graphed is not None if network.shares_border is None else network.shares_border
        self.shares_border = shared and getattr(prompt, "constant_border", False)

    def source_logits(self, x: Tensor) -> Tensor:
        """Images (B,3,h,w) in [0,1] -> (B,S)."""
        return self._source_logits(x) if self.graphed is None else self.graphed(x)

    def _source_logits(self, x: Tensor) -> Tensor:
        if hasattr(self.prompt, "ask"):
            return self.prompt.ask(self._of_prompted, x)
        return self._of_prompted(share_border(self.prompt, x) if self.shares_border else self.prompt(x))

    @torch.no_grad()
    def seen(self, x: Tensor) -> Tensor:
        """Images (B,3,h,w) -> what the network sees of them, (B,3,H,W); of several prompts the one that decides."""
        several = hasattr(self.prompt, "choose")
        return self.prompt(x, self.prompt.choose(self._of_prompted, x)) if several else self.prompt(x)

    def _of_prompted(self, prompted: Tensor) -> Tensor:
        side = self.network.input_size
        if prompted.shape[2:] != (side, side):
            raise UserError(
                f"{type(self.prompt).__name__} has to give the network images of {side} x {side} pixels.",
                f"It gives {tuple(prompted.shape)}.",
                "Pad or resize in the prompt's forward.",
            )
        return self.network(prompted)

    def forward(self, x: Tensor, with_source: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Target logits (B,T); `with_source` also the source logits (B,S) that they were computed from."""
        source = self.source_logits(x)
        return (self.mapping(source), source) if with_source else self.mapping(source)

    @property
    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds, by key. `mapping_sequence` is the key of the original ILM-VP repository."""
        index = isinstance(self.mapping, SelectLabels)
        parts = {"visual_prompt_dict": self.prompt}
        parts |= {"mapping_sequence": self.mapping.index} if index else {"mapping_dict": self.mapping}
        return parts | self.network.saved

    @property
    def setup(self) -> dict[str, Any]:
        """What is needed besides `saved` to build the model again, in plain values."""
        return {"prompt": self.prompt.described(), "mapping": self.mapping.described(), **self.network.setup}
