"""A network behind HTTP: images are sent as PNG, class scores come back as JSON. docs/black_box.md has the format."""

import hashlib
import io
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import cfg
from errors import UserError, printable
from locks import locked
from models.answers import Answers, answers_file
from models.black_box import BlackBox
from models.http_endpoint import Endpoint

_TINY = 1e-12  # a probability of 0 has no logarithm
_LARGEST = torch.finfo(torch.float32).max


class HttpService(BlackBox):
    """A service: images (B,3,H,W) in [0,1] -> (B,S) logits, or logarithms of probabilities, float32.

    It tells by itself how many classes it has. An answer is kept on disk by the SHA-256 of the bytes that were sent, so
    a run that was killed asks no image twice. All processes on this file system ask one after another.

    Args:
        address: http://... or https://...
        device: where images come from, and scores go to.
        budget: `calls` and `images`, as of `BlackBox`.

    Attributes:
        fingerprint: identifies what the service tells of itself. The address does not count.

    Raises:
        UserError: it refuses, or does not answer as docs/black_box.md says.
    """

    def __init__(self, address: str, device: torch.device | str = "cpu", **budget: int | None):
        endpoint = _Endpoint(address, _pause())
        told = endpoint.insist(endpoint.description)
        fingerprint = hashlib.sha256(repr(sorted(told.items())).encode()).hexdigest()[:16]
        zero = torch.zeros(3, 1, 1, device=device)
        setup = {"source": address, "weights": fingerprint}
        names, size = tuple(told["class_names"]), told["input_size"]
        super().__init__(
            SimpleNamespace(class_names=names, input_size=size, mean=zero, std=zero + 1, setup=setup), **budget
        )
        self.fingerprint, self._endpoint = fingerprint, endpoint
        self._as_logits = told["scores"] == "logits"
        kept = answers_file(f"{address.partition('://')[2]}-{fingerprint}")
        self._answers, self._lock = Answers(kept, len(names)), kept.with_suffix(".lock")

    def answer(self, images: Tensor) -> Tensor:
        scores = torch.stack([self._one(png_of(image)) for image in images]).to(images.device)
        return scores if self._as_logits else scores.clamp_min(_TINY).log()

    def _one(self, png: bytes) -> Tensor:
        """The scores (S,) of one image: from the disk, or else from the service."""
        key = hashlib.sha256(png).hexdigest()
        kept = self._answers.find([key])
        return kept[key] if kept else self._endpoint.insist(lambda: self._ask(key, png))

    def _ask(self, key: str, png: bytes) -> Tensor:
        """Asks once. The lock is held until the next request is due, so that all processes together keep the rate."""
        with locked(self._lock):
            if kept := self._answers.find([key]):  # another process has asked meanwhile
                return kept[key]
            with self._endpoint.paced():
                scores = self._endpoint.scores(png, len(self.class_names))
                self._answers.keep({key: scores})
        return scores


class _Endpoint(Endpoint):
    """The two questions of docs/black_box.md."""

    def description(self) -> dict[str, Any]:
        """GET: `class_names`, `input_size` in pixels, `scores` (what they are), and `version` if there is one."""
        told = self.request()
        told = told if isinstance(told, dict) else {}
        names, size, scores = (told.get(name) for name in ("class_names", "input_size", "scores"))
        if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
            raise self.wrong("GET gives no list `class_names` of texts.")
        if type(size) is not int or not 1 <= size <= 4096:
            raise self.wrong("GET gives no `input_size`, the side of an image in pixels.")
        if scores not in ("probabilities", "logits"):
            raise self.wrong("GET gives no `scores`: probabilities or logits.")
        version = str(told.get("version", ""))
        names = [printable(name) for name in names]
        return {"class_names": names, "input_size": size, "scores": scores, "version": version}

    def scores(self, png: bytes, classes: int) -> Tensor:
        """POST of a PNG file: `scores`, one finite number for each class."""
        told = self.request(png)
        numbers = told.get("scores") if isinstance(told, dict) else None
        if not isinstance(numbers, list) or any(type(number) not in (int, float) for number in numbers):
            raise self.wrong("POST gives no list `scores` of numbers.")
        if len(numbers) != classes or not all(abs(number) <= _LARGEST for number in numbers):  # nan is not, either
            raise self.wrong(f"POST gives {len(numbers)} scores, or some that are not finite, for {classes} classes.")
        return torch.tensor(numbers, dtype=torch.float32)


def _pause() -> float:
    """Seconds from one request to the next, by cfg.service_rate."""
    try:
        rate = float(cfg.service_rate or "inf")
    except ValueError:
        rate = 0.0
    if not rate > 0:
        asked = "VP_SERVICE_RATE, or service_rate in cfg.py: how many images a second a service is asked at most."
        raise UserError(asked, f"It is {cfg.service_rate!r}.", "Give a number above 0, or nothing for no limit.")
    return 1 / rate


def png_of(image: Tensor) -> bytes:
    """(3,H,W) in [0,1] -> a PNG file of 8 bits a channel. Equal pixels give equal bytes."""
    pixels = image.detach().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
