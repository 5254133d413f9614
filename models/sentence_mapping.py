"""Output mappings over several sentences for each class (AttrVR, RVP)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from errors import too_few_sentences
from models.output_mapping import one_to_one
from models.part import Part
from models.prompted import Prompted


class NearestSentences(Part):
    """A target's logit is the mean of its `nearest` largest source logits, and of several banks their weighted sum.

    The mapping of AttrVR on CLIP (Cai et al., ICLR 2025). Each image chooses its sentences for each class, so the
    choice follows the visual prompt, and nothing is counted. The source labels are sentences: sentence i of bank b for
    target t has the index (b * m + i) * T + t.

    Args:
        num_target: T.
        num_sentences: m, the sentences of a class in each bank.
        nearest: how many of them count, at most m.
        weights: what each bank counts; one number for each bank.

    Raises:
        UserError: more sentences should count than there are.
    """

    def __init__(self, num_target: int, num_sentences: int, nearest: int, weights: Sequence[float]):
        super().__init__()
        if nearest > num_sentences:
            raise too_few_sentences(nearest, num_sentences)
        self.num_target, self.num_sentences, self.nearest, self.changed = num_target, num_sentences, nearest, None
        self.register_buffer("weights", torch.tensor([float(weight) for weight in weights]), persistent=False)

    def forward(self, source_logits: Tensor) -> Tensor:
        """(B,S) -> (B,T)."""
        banks = source_logits.view(-1, len(self.weights), self.num_sentences, self.num_target)
        return self.weights @ banks.topk(self.nearest, dim=2).values.mean(2)

    @property
    def sources(self) -> Tensor:
        """(T,S/T) int64: all sentences of each target."""
        number = len(self.weights) * self.num_sentences * self.num_target
        return torch.arange(number, device=self.weights.device).view(-1, self.num_target).T

    def named(self, source_names: Sequence[str], target_names: Sequence[str]) -> dict[str, str]:
        """Target name -> the first sentence of each bank, and how many sentences there are."""
        words = {}
        for target, row in zip(target_names, self.sources.tolist(), strict=True):
            first = " / ".join(source_names[source] for source in row[:: self.num_sentences])
            words[target] = first + (f" (first of {self.num_sentences} in each bank)" if len(row) > 1 else "")
        return words


class WeightedSentences(Part):
    """A class's sentences are weighted, and classes are mixed; both learn (RVP, arXiv 2609.36680).

    f_t = sum over i of softmax(sentences[t])_i * (source logit of sentence i of class t), z = f @ (I + classes). The
    source labels are sentences: sentence i of class t has the index i * T + t.

    Args:
        num_target: T.
        num_sentences: m, the sentences of a class.

    State: `sentences` (T,m), the paper's P, and `classes` (T,T), its E: float32, zero at the start. So a class's logit
    is at first the mean over its sentences.
    """

    def __init__(self, num_target: int, num_sentences: int):
        super().__init__()
        self.num_target, self.changed = num_target, None
        self.sentences = nn.Parameter(torch.zeros(num_target, num_sentences))
        self.classes = nn.Parameter(torch.zeros(num_target, num_target))

    def forward(self, source_logits: Tensor) -> Tensor:
        """(B,S) -> (B,T)."""
        own = source_logits.view(len(source_logits), -1, self.num_target)
        means = (own * self.sentences.softmax(1).T).sum(1)
        return means + means @ self.classes

    @property
    def sources(self) -> Tensor:
        """(T,1) int64: the sentence of each class with the largest weight, the first of equals."""
        targets = torch.arange(self.num_target, device=self.sentences.device)
        return (self.sentences.argmax(1) * self.num_target + targets)[:, None]

    def named(self, source_names: Sequence[str], target_names: Sequence[str], most: int = 3) -> dict[str, str]:
        """Target name -> its sentences with the largest weights, each with its weight."""
        weights, order = self.sentences.detach().softmax(1).sort(dim=1, descending=True, stable=True)
        words = {}
        for target, name in enumerate(target_names):
            pairs = zip(order[target, :most].tolist(), weights[target, :most].tolist(), strict=True)
            words[name] = ", ".join(f"{source_names[i * self.num_target + target]} ({value:.2f})" for i, value in pairs)
        return words


@torch.no_grad()
def folded(model: Prompted, target_names: Sequence[str]) -> Prompted:
    """The same function of a CLIP whose linear mapping is folded into its text embeddings, a linear head of T outputs.

    RVP's W = (1/tau) * T~^T W1 (I + E): T~ (S,D) are the sentences' unit embeddings, W1 (S,T) the soft-max weights. The
    folded model computes as much as CLIP with one text prompt for each class.

    Args:
        model: its mapping is a matrix product, source logits (B,S) @ a matrix (S,T). Its prompt and image encoder are
            shared with the result.
    """
    head = model.mapping(model.network.bank.T).T.contiguous()  # bank.T: what the D unit vectors have for source logits
    return Prompted(model.prompt, model.network.over(head, target_names), one_to_one(len(target_names)))
