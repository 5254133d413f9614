"""Whether a model's probabilities are right, and the temperature that corrects them (Guo et al., ICML 2017)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 15
TEMPERATURES = (0.01, 100.0)  # the range that is searched


class Reliability:
    """Counts, batch by batch, how sure a model is and how often it is right. No logits are stored.

    An image's confidence is the largest soft-max probability of its logits, divided by the temperature. Bin m of 15,
    counted from 1, has the images whose confidence is above (m - 1) / 15 and at most m / 15 (Guo et al., section 2).

    Args:
        temperature: above 0; it changes confidences, and no prediction.
    """

    def __init__(self, temperature: float = 1.0):
        self.temperature = temperature
        self._sums = torch.zeros(3, BINS, dtype=torch.float64)  # of each bin: images, those that are right, confidences
        self._edges = torch.arange(1, BINS, dtype=torch.float64) / BINS

    @torch.no_grad()
    def __call__(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch, (B,T) and (B,) int64."""
        logits, labels = logits.cpu().double(), labels.cpu()
        predicted = logits.argmax(1)
        confidence = (logits / self.temperature).softmax(1).gather(1, predicted[:, None])[:, 0]
        found = torch.stack([torch.ones_like(confidence), (predicted == labels).double(), confidence])
        self._sums.index_add_(1, torch.bucketize(confidence, self._edges), found)

    @property
    def error(self) -> float:
        """Expected calibration error in [0,1]: the mean over images of |accuracy - confidence| of their bin."""
        images, right, confidence = self._sums
        return ((right - confidence).abs().sum() / images.sum().clamp(min=1)).item()

    @property
    def bins(self) -> list[dict[str, Any]]:
        """Of each bin the number of `images`, and their mean `accuracy` and `confidence`, None without an image."""
        return [
            {
                "images": int(images),
                "accuracy": right / images if images else None,
                "confidence": confidence / images if images else None,
            }
            for images, right, confidence in self._sums.T.tolist()
        ]


class LogitStore:
    """Keeps the logits (B,T) and labels (B,) of all batches in the host's memory."""

    def __init__(self):
        self._batches: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def __call__(self, logits: Tensor, labels: Tensor) -> None:
        self._batches.append((logits.cpu(), labels.cpu()))

    def take(self) -> tuple[Tensor, Tensor]:
        """Logits (N,T) and labels (N,) of all images, N above 0."""
        logits, labels = zip(*self._batches, strict=True)
        self._batches = []
        return torch.cat(logits), torch.cat(labels)


@torch.no_grad()
def fit_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """The temperature in TEMPERATURES with the smallest cross-entropy (Guo et al., section 4.2).

    Cross-entropy is convex in 1 / temperature, so a search along a line finds the minimum. If all images are right, it
    has none: the lower the temperature, the lower it is. The result is None then.

    Args:
        logits, labels: (N,T) and (N,) int64 of images that were not trained on.
    """
    from scipy.optimize import minimize_scalar  # late: an evaluation without it need not wait

    logits = logits.double()
    if (logits.argmax(1) == labels).all():
        return None

    def loss(log_temperature: float) -> float:
        return F.cross_entropy(logits / math.exp(log_temperature), labels).item()

    bounds = [math.log(end) for end in TEMPERATURES]
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8}).x)
