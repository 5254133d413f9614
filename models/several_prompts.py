"""Several prompts of one kind: each image under one of them, or under all of them."""

import copy
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from errors import UserError
from models.part import Part


class SeveralPrompts(Part):
    """n prompts of one kind, whose programs lie in one parameter. A batch is prompted at once, whatever its prompts.

    Args:
        prompt: what each of them is: a prompt with a `program`, whose formula holds for programs (...,3,H,W) too
            (`ExpansiveVisualPrompt`, `AdditiveVisualPrompt`, `PaddedVisualPrompt`). All start with its program.
        count: n.

    State: `program` (n,3,H,W) float32, and the other state of `prompt` below that name.
    """

    def __init__(self, prompt: Part, count: int):
        super().__init__()
        self.prompt = copy.deepcopy(prompt)
        self.program = nn.Parameter(prompt.program.detach().repeat(count, 1, 1, 1))
        self.prompt.register_parameter("program", None)

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Images (B,3,h,w) -> each under the prompt with its number in `index`, (B,) int64: (B,3,H,W).

        Without an index, each under all prompts: (n*B,3,H,W), first all images under prompt 0, then under prompt 1, ...
        """
        if index is None:
            return self._prompted(x, self.program[:, None]).flatten(0, 1)
        # The gradient of `embedding` adds up whole rows in a fixed order; that of indexing takes much longer.
        own = F.embedding(index, self.program.flatten(1))
        return self._prompted(x, own.view(-1, *self.program.shape[1:]))

    def _prompted(self, x: Tensor, program: Tensor) -> Tensor:
        return functional_call(self.prompt, {"program": program}, (x,))


class PromptsOfLabels(SeveralPrompts):
    """n prompts, each for some of the source labels: a label's logit is that of the image under the label's prompt.

    With the sentences of a CLIP as source labels it is the prompting of DVP (Cai et al., ICML 2025).

    Args:
        prompt, count: see `SeveralPrompts`.
        prompt_of_label: (S,) int64, the number of each source label's prompt.

    State: that of `SeveralPrompts`.

    Raises:
        UserError: a label's prompt is none of them.
    """

    def __init__(self, prompt: Part, count: int, prompt_of_label: Tensor):
        super().__init__(prompt, count)
        if not 0 <= int(prompt_of_label.min()) <= int(prompt_of_label.max()) < count:
            found = f"The numbers go from {int(prompt_of_label.min())} to {int(prompt_of_label.max())}."
            asked = f"Each label has one of {count} prompts, counted from 0."
            raise UserError(asked, found, "Correct prompt_of_label.")
        self.register_buffer("prompt_of_label", prompt_of_label.detach().clone(), persistent=False)

    def ask(self, network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Images (B,3,h,w) -> source logits (B,S). The network sees n*B images at once."""
        return logits_under(self.prompt_of_label, network(self(x)).unflatten(0, (len(self.program), -1)))


def logits_under(prompt_of_label: Tensor, logits: Tensor) -> Tensor:
    """(B,S): each label's logit under its own prompt, (S,) int64, from the logits under all prompts, (n,B,S)."""
    return logits.gather(0, prompt_of_label.expand(1, *logits.shape[1:]))[0]
