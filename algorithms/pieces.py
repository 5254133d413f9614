"""Pieces of a batch, computed one after the other where a whole batch does not fit into the memory.

Each image's logits depend on that image alone, and the loss is a sum over images. So the gradients of the pieces add up
to the batch's gradient, to rounding. Batch normalisation that trains is the exception.
"""

import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

_MEASURED = 8  # images; the shared border of fewer images is a larger part of their memory
_KINDS = ("training", "forward")
# What is taken, against the bytes of the tensors: libraries need memory of their own. One pass took up to 1.4 times in
# training, and 1.2 to 1.8 times without gradients (efficientnet_lite0, resnet18, resnet50, on a CPU). The rest is for
# blocks that evaluation has freed and training cannot use.
_RESERVE = (1.6, 1.8)

Result = TypeVar("Result")


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made under it: `now` and, at most, `peak`. Any device.

    What a library takes within one operation is not counted.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        known = {id(storage) for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            if id(storage) not in known:
                known.add(id(storage))
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return result

    def _add(self, count: int) -> None:
        self.now += count
        self.peak = max(self.peak, self.now)


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def bytes_of_an_image(function: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """The memory that the function needs for one more image, in bytes: at most, as measured with a few of `images`.

    With gradients enabled it is that of forward and backward pass. The function is a module, or a method of one. It
    computes as in eval mode. No gradient is kept, and no random number is used up.
    """
    some = images[:_MEASURED].detach().clone().requires_grad_()
    with _in_eval_mode(_module(function)), torch.random.fork_rng(devices=[]), LiveBytes() as live:
        logits = function(some)
        if logits.requires_grad:
            torch.autograd.grad(logits.sum(), some, allow_unused=True)
    return live.peak / len(some)


def _module(function: Callable) -> nn.Module:
    owner = getattr(function, "__self__", function)
    return owner if isinstance(owner, nn.Module) else nn.Identity()


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def learns_from_whole_batches(model: nn.Module) -> bool:
    """Whether pieces of a batch would give other results in training.

    A layer normalises over the batch, or a module says `whole_batches`, since the loss compares the batch's images.
    """
    return any(
        module.training and (isinstance(module, _BatchNorm) or getattr(module, "whole_batches", False))
        for module in model.modules()
    )


def _cuts_itself(model: nn.Module) -> bool:
    """Whether a module of the model takes whole batches, since it counts them (`BlackBox`)."""
    return any(getattr(module, "cuts_batches", False) for module in model.modules())


class Pieces:
    """In which pieces batches are computed. Without arguments each batch is one piece.

    A batch that does not fit is cut into pieces whose size is a power of two, so that small changes of what is free do
    not change it. Its last piece may be smaller.

    Args:
        budget: how many bytes activations may take. It is called once, before the first batch.
        fast: the largest numbers of images in a piece that are fast, in training and without gradients; None: any.
    """

    def __init__(self, budget: Callable[[], float] | None = None, fast: tuple[int, int] | None = None):
        self._measure, self._fast = budget, fast
        self._budget = float("inf")
        self._fitting: dict[Hashable, float] = {}  # a function, with gradients or without -> how many images fit
        self._halved: set[Hashable] = set()

    def compute(
        self,
        function: Callable[[Tensor], Tensor],
        work: Callable[[Tensor, Tensor], Result],
        images: Tensor,
        labels: Tensor,
        undo: Callable[[], Any] = lambda: None,
    ) -> list[Result]:
        """`work(images, labels)` of each piece of a batch, in order.

        Where CUDA's memory is not enough, the function's pieces are halved, once, and the batch is computed anew.

        Args:
            function: what the work calls with the images: a module, or a method of one.
            undo: takes back what work on a part of the pieces has changed.
        """
        state = torch.get_rng_state()
        try:
            return self._compute(function, work, images, labels)
        except torch.cuda.OutOfMemoryError:
            if not self._halve(function, len(images)):
                raise
        # here the error is gone, and with it the tensors that its traceback held
        torch.cuda.empty_cache()
        undo()
        torch.set_rng_state(state)
        return self._compute(function, work, images, labels)

    def _compute(self, function: Callable, work: Callable, images: Tensor, labels: Tensor) -> list:
        size = max(1, self._size(function, images))
        return [work(*piece) for piece in zip(images.split(size), labels.split(size), strict=True)]

    def outputs(self, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The function of images (B,...), computed in pieces, without gradients."""

        @torch.no_grad()
        def of(images: Tensor) -> Tensor:
            parts = self.compute(function, lambda some, _: function(some), images, images)
            return torch.cat(parts) if len(parts) > 1 else parts[0]

        return of

    def _size(self, function: Callable, images: Tensor) -> int:
        """How many images a piece of this batch has."""
        count, key = len(images), _key(function)
        if key not in self._fitting and count:
            self._fitting[key] = self._fit(function, images)
        fitting = self._fitting.get(key, count)
        return count if count <= fitting else _power_of_two(fitting)

    def _fit(self, function: Callable, images: Tensor) -> float:
        """How many images fit into a piece. It says so if it cuts this batch, or if it may not."""
        if _cuts_itself(_module(function)):
            return float("inf")
        if self._measure:
            self._budget, self._measure = self._measure(), None
        whole = learns_from_whole_batches(_module(function))
        kind = 0 if torch.is_grad_enabled() else 1
        fast = self._fast[kind] if self._fast else float("inf")
        if self._budget == float("inf"):
            return float("inf") if whole else fast
        each = bytes_of_an_image(function, images) * _RESERVE[kind]
        fitting, count = max(1, self._budget // each), len(images)
        found = f"A {_KINDS[kind]} batch of {count} images takes about {count * each / 1e9:.1f} GB"
        found += f", and {self._budget / 1e9:.1f} GB may be used."
        if whole:
            if count > fitting:
                tqdm.write(
                    f"{found} It is not cut: batch normalisation learns from whole batches, or the loss needs them."
                )
            return float("inf")
        if count > fitting and fitting < fast:
            tqdm.write(f"{found} It is computed in pieces of {_power_of_two(fitting)}: --memory.")
        return min(fitting, fast)

    def _halve(self, function: Callable, count: int) -> bool:
        """Halves the pieces of batches of `count` images. False if they were halved before, or may not be cut."""
        key = _key(function)
        fitting = self._fitting.get(key, count)
        size = count if count <= fitting else _power_of_two(fitting)
        module = _module(function)
        if key in self._halved or size < 2 or learns_from_whole_batches(module) or _cuts_itself(module):
            return False
        self._halved.add(key)
        self._fitting[key] = _power_of_two(size / 2)
        tqdm.write(f"Out of memory with {size} images. From now on {self._fitting[key]} are computed at a time.")
        return True


def _power_of_two(most: float) -> int:
    """The largest power of two that is not larger; at least 1."""
    return 1 << max(0, int(most).bit_length() - 1)


def _key(function: Callable) -> Hashable:
    return function, torch.is_grad_enabled()
