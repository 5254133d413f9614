"""Several prompts of one kind: each image under one of them, or under all of them."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from errors import UserError
from models.part import Part

Network = Callable[[Tensor], Tensor]  # (B,3,H,W) in [0,1] -> (B,S)


class SeveralPrompts(Part):
    """n prompts of one kind, whose programs lie in one parameter. A batch is prompted at once, whatever its prompts.

    The classes below say which prompts an image gets. They have
        `ask(network, x)`     images (B,3,h,w) -> source logits (B,S);
        `choose(network, x)`  images (B,3,h,w) -> (B,) int64, the number of the prompt that decides for each image.

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

    def under_all(self, network: Network, x: Tensor) -> Tensor:
        """Images (B,3,h,w) -> source logits under each prompt (n,B,S). The network sees n*B images at once."""
        return network(self(x)).unflatten(0, (len(self.program), -1))


class PromptsOfLabels(SeveralPrompts):
    """n prompts, each for some of the source labels: a label's logit is that of the image under the label's prompt.

    With the sentences of a CLIP as source labels it is the prompting of DVP (Cai et al., ICML 2025).

    Args:
        prompt, count: see `SeveralPrompts`.
        prompt_of_label: (S,) int64, the number of each source label's prompt.

    State: that of `SeveralPrompts`, and `prompt_of_label`.

    Raises:
        UserError: a label's prompt is none of them.
    """

    def __init__(self, prompt: Part, count: int, prompt_of_label: Tensor):
        super().__init__(prompt, count)
        if not 0 <= int(prompt_of_label.min()) <= int(prompt_of_label.max()) < count:
            found = f"The numbers go from {int(prompt_of_label.min())} to {int(prompt_of_label.max())}."
            raise UserError(
                f"Each label has one of {count} prompts, counted from 0.", found, "Correct prompt_of_label."
            )
        self.register_buffer("prompt_of_label", prompt_of_label.detach().clone())

    def ask(self, network: Network, x: Tensor) -> Tensor:
        return logits_under(self.prompt_of_label, self.under_all(network, x))

    def choose(self, network: Network, x: Tensor) -> Tensor:
        return self.prompt_of_label[self.ask(network, x).argmax(1)]


class PromptsOfClusters(SeveralPrompts):
    """n prompts, each for the images whose features are near its cluster's (DAM-VP, Huang et al., CVPR 2023).

    An image gets the prompt of the prototype nearest to what the network says about the image without a prompt. That is
    a forward pass more for each image, which has no gradient.

    Args:
        prompt: see `SeveralPrompts`. Its images are as large as the network's input, since the network sees them, too.
        count: n.
        num_features: S, what the network gives.

    State: `prototypes` (n,S) float32, zero until `prototypes.copy_`, and that of `SeveralPrompts`.
    """

    def __init__(self, prompt: Part, count: int, num_features: int):
        super().__init__(prompt, count)
        self.register_buffer("prototypes", torch.zeros(count, num_features))

    def ask(self, network: Network, x: Tensor) -> Tensor:
        return network(self(x, self.choose(network, x)))

    @torch.no_grad()
    def choose(self, network: Network, x: Tensor) -> Tensor:
        distances = torch.cdist(network(x), self.prototypes, compute_mode="donot_use_mm_for_euclid_dist")  # exact
        return distances.argmin(1)


class PromptsOfClasses(SeveralPrompts):
    """A prompt for each target class: its probability is that of the image under its own prompt (C-AVP, ICASSP 2023).

    P[p,c] is the probability of class c for the image under prompt p, a soft-max over the classes' source labels. The
    prediction is the class with the largest diagonal entry P[c,c]. Prompted images are clipped to [0,1].

    Args:
        prompt: see `SeveralPrompts`.
        num_classes: T, how many prompts there are.
        num_source: S.

    Attributes:
        whole_batches: the training loss compares the images of a batch. So batches are not cut in training.

    State: `labels` (T,) int64, the source label of each class, 0, 1, ... until `labels.copy_`; and that of
    `SeveralPrompts`.
    """

    whole_batches = True

    def __init__(self, prompt: Part, num_classes: int, num_source: int):
        super().__init__(prompt, num_classes)
        self.num_source = num_source
        self.register_buffer("labels", torch.arange(num_classes))

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        return super().forward(x, index).clamp(0, 1)

    def log_probabilities(self, network: Network, x: Tensor) -> Tensor:
        """log P, (T,B,T): by prompt, image and class."""
        return self.under_all(network, x)[..., self.labels].log_softmax(-1)

    def ask(self, network: Network, x: Tensor) -> Tensor:
        """(B,S): log P[c,c] at the classes' source labels. The other labels are seen under the first prompt."""
        each = self.under_all(network, x)
        own = torch.zeros(self.num_source, dtype=torch.int64, device=x.device)
        own[self.labels] = torch.arange(len(self.labels), device=x.device)
        return logits_under(own, each - each[..., self.labels].logsumexp(-1, keepdim=True))

    def choose(self, network: Network, x: Tensor) -> Tensor:
        return self.ask(network, x)[:, self.labels].argmax(1)


def logits_under(prompt_of_label: Tensor, logits: Tensor) -> Tensor:
    """(B,S): each label's logit under its own prompt, (S,) int64, from the logits under all prompts, (n,B,S)."""
    return logits.gather(0, prompt_of_label.expand(1, *logits.shape[1:]))[0]
