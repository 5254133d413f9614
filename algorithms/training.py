"""The training loop: the only one. It knows images, labels, a model that gives target logits, and an optimizer."""

import math
import time
from collections.abc import Callable, Collection, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from tqdm import tqdm

from algorithms.distributed import all_sum, is_synchronised, world_size
from algorithms.losses import Loss, cross_entropy
from algorithms.pieces import Pieces
from algorithms.step import logits_of, step_along_gradient, step_without_gradient
from errors import BudgetSpent

Observer = Callable[[Tensor, Tensor], None]  # logits, of the source labels (B,S) or of the targets (B,T); labels (B,)


class NonFiniteLoss(Exception):
    """A loss became infinite or not a number."""


class _Meter:
    """Sums of loss and correct predictions, kept on the device so that a step never waits for them."""

    def __init__(self):
        self.images, self.loss, self.correct = 0, 0.0, 0

    def add(self, summed_loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.images += len(labels)
        self.loss = self.loss + summed_loss.detach()
        classes = labels if labels.ndim == 1 else labels.argmax(1)  # the most probable ones
        self.correct = self.correct + (logits.detach().argmax(1) == classes).sum()

    def over_processes(self) -> "_Meter":
        """Adds what the other processes of this run have summed up."""
        sums = torch.tensor([self.images, float(self.loss), float(self.correct)], dtype=torch.float64)
        images, self.loss, self.correct = all_sum(sums).tolist()
        self.images = int(images)
        return self

    def summary(self) -> dict[str, float]:
        images = max(self.images, 1)
        return {"loss": float(self.loss) / images, "acc": float(self.correct) / images}


def progress(batches: Iterable, description: str, total: int | None = None) -> tqdm:
    """A progress bar over batches, `total` if they have no length. It disappears at the end; the epoch's line stays."""
    return tqdm(batches, desc=description, total=total, leave=False, dynamic_ncols=True, mininterval=0.3, unit="batch")


def train_one_epoch(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    loss: Loss = cross_entropy,
    after_step: Callable[[], None] = lambda: None,
    observe: Observer | None = None,
    pieces: Pieces | None = None,
    description: str = "training",
) -> dict[str, float]:
    """One pass of training.

    An optimizer with `gradient_free = True` gets a closure that evaluates a batch's mean loss, as often as it wants.
    There is no backward pass then, and what is summed up and observed is the first evaluation of each step.

    Args:
        model: images (B,3,h,w) in [0,1] -> target logits (B,T).
        loader: batches of images and labels (B,) int64, on the model's device. Where several processes carry out this
            run, it gives this process's part of each batch, which may be empty.
        loss: what is minimised.
        after_step: called after each step of the optimizer.
        observe: gets each batch's source logits and labels. The model then has to give source logits on request:
            `model(images, with_source=True)` is a pair of target and source logits.
        pieces: in which pieces a batch is computed; None: each batch as a whole.

    Returns:
        `loss` (mean over images) and `acc` (fraction in [0,1]) as they were while the model trained, and the number of
        `images` that it was trained on, of all processes.

    Raises:
        NonFiniteLoss: the loss is infinite or not a number, checked when the bar refreshes and after the last batch.
        BudgetSpent: the model raised it before the pass made a step. A later one ends the pass.
    """
    model.train()
    meter, pieces = _Meter(), pieces or Pieces()
    how = {"loss": loss, "with_source": observe is not None}
    if getattr(optimizer, "gradient_free", False):
        step = partial(step_without_gradient, model, optimizer, pieces, **how)
    else:
        step = partial(step_along_gradient, model, optimizer, scaler, pieces, is_synchronised(model), **how)
    shown = time.monotonic()
    with progress(loader, description) as bar:
        for images, labels in bar:
            try:
                results = step(images, labels)
            except BudgetSpent:
                if not meter.images:
                    raise
                break
            for summed_loss, logits, source_logits, some in results:
                meter.add(summed_loss, logits, some)
                if observe is not None:
                    observe(source_logits, some)
            after_step()
            if time.monotonic() - shown > 0.5:  # reading the sums waits for the device, so not at every step
                shown = time.monotonic()
                if world_size() == 1:  # processes stop together, after the epoch
                    _check_finite(meter)
                bar.set_postfix(meter.summary(), refresh=False)
    meter.over_processes()
    _check_finite(meter)
    return meter.summary() | {"images": meter.images}


def _check_finite(meter: _Meter) -> None:
    if not torch.isfinite(torch.as_tensor(meter.loss)):
        raise NonFiniteLoss(f"the training loss is {float(meter.loss)} after {meter.images} images of this epoch")


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    observe: Observer | None = None,
    observe_targets: Observer | None = None,
    pieces: Pieces | None = None,
    description: str = "evaluation",
) -> dict[str, float]:
    """Mean cross-entropy `loss` and accuracy `acc` in [0,1] of the model in eval mode; arguments as in training.

    `observe_targets` gets each batch's target logits and labels, from which `loss` and `acc` are computed.

    What a model draws at random here, such as the positions of VP's random patch, comes from a fixed seed. So the same
    model always has the same accuracy.
    """
    model.eval()
    meter, pieces = _Meter(), pieces or Pieces()

    def forward(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        return *logits_of(model, images, observe is not None), labels

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for images, labels in progress(loader, description):
            for logits, source_logits, some in pieces.compute(model, forward, images, labels) if len(labels) else ():
                if observe is not None:
                    observe(source_logits, some)
                if observe_targets is not None:
                    observe_targets(logits, some)
                meter.add(cross_entropy(logits, some), logits, some)
    return meter.over_processes().summary()


def step_schedule(
    optimizer: torch.optim.Optimizer, epochs: int, constant: Collection[int] = (), warmup: int = 0
) -> torch.optim.lr_scheduler.LRScheduler:
    """ILM-VP's schedule: the learning rate times 0.1 after 50 % and again after 72 % of the epochs, in whole epochs.

    The k-th epoch of a linear warm-up has k/warmup of that. The papers have no warm-up. The parameter groups with the
    numbers `constant` keep their learning rates, in the warm-up too.
    """
    milestones = [max(1, int(fraction * epochs)) for fraction in (0.5, 0.72)]  # one at 0 would slow the first epoch
    if not constant and not warmup:
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)

    def factor(epoch: int) -> float:
        warm = min(1.0, (epoch + 1) / warmup) if warmup else 1.0
        return warm * 0.1 ** sum(epoch >= milestone for milestone in milestones)

    factors = [(lambda _: 1.0) if number in constant else factor for number in range(len(optimizer.param_groups))]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factors)


def cosine_schedule(
    optimizer: torch.optim.Optimizer, length: int, warmup: int = 0
) -> torch.optim.lr_scheduler.LRScheduler:
    """Half a cosine from the learning rate to 0, after a linear warm-up; both count calls of `step()`.

    The k-th step of the warm-up has k/warmup of the learning rate; a `length` below `warmup` ends in the warm-up.
    """

    def factor(done: int) -> float:
        if done < warmup:
            return (done + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warmup) / max(1, length - warmup))))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def fit(
    model: nn.Module,
    data,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    *,
    epochs: int,
    seed: int,
    scaler: torch.amp.GradScaler,
    start_epoch: int = 0,
    schedule_steps: bool = False,
    on_epoch_start: Callable[[int], dict | None] = lambda epoch: None,
    on_epoch_trained: Callable[[int], dict | None] = lambda epoch: None,
    on_epoch_end: Callable[[int, dict], None] = lambda epoch, record: None,
    observe_train: Observer | None = None,
    observe_test: Observer | None = None,
    observe_targets: Observer | None = None,
    pieces: Pieces | None = None,
    loss: Loss = cross_entropy,
) -> None:
    """Trains for the epochs from `start_epoch`, counted from 0, to `epochs`; evaluates after each.

    Every epoch begins with a seed made of `seed` and its number, so that a run continued at epoch k draws the same
    orders, crops and dropouts as one that never stopped.

    Args:
        data: has `train`, `val` (or None) and `test`, each a loader of (images, labels).
        scheduler: stepped once an epoch, or with `schedule_steps` after each step of the optimizer.
        on_epoch_start: called with the epoch before it trains; what it returns goes into the epoch's record.
        on_epoch_trained: the same, between an epoch's training and its evaluation.
        on_epoch_end: called with the epoch and its record: train_, val_, test_ + loss and acc, lr, seconds, and
            images_per_second (of training alone).
        observe_train, observe_test: see `train_one_epoch` and `evaluate`, for these two splits.
        observe_targets: see `evaluate`, for the test split.
        pieces: in which pieces batches are computed; None: each batch as a whole.
        loss: what training minimises. The loss of val and test is the cross-entropy.

    Where the model raises BudgetSpent, the epoch ends at the last whole step; without a step it is left out.

    Raises:
        NonFiniteLoss: a loss became infinite or not a number. `on_epoch_end` is not called for that epoch.
    """
    for epoch in range(start_epoch, epochs):
        label = f"epoch {epoch + 1}/{epochs}"
        begin = time.perf_counter()
        torch.manual_seed((seed * 1_000_003 + epoch) % 2**63)  # all processes draw one order of the images
        training = {"after_step": scheduler.step} if schedule_steps else {}
        training |= {"observe": observe_train, "pieces": pieces, "loss": loss, "description": f"{label} training"}
        try:
            record = dict(on_epoch_start(epoch) or {})
            torch.manual_seed((seed * 1_000_003 + epoch) % 2**63)
            record["lr"] = optimizer.param_groups[0]["lr"]
            train_begin = time.perf_counter()
            results = {"train": train_one_epoch(model, data.train, optimizer, scaler, **training)}
        except BudgetSpent:
            return
        record["images_per_second"] = results["train"].pop("images") / (time.perf_counter() - train_begin)
        record |= on_epoch_trained(epoch) or {}
        if not schedule_steps:
            scheduler.step()
        if data.val is not None:
            results["val"] = evaluate(model, data.val, pieces=pieces, description=f"{label} validation")
        testing = {"observe": observe_test, "observe_targets": observe_targets, "pieces": pieces}
        results["test"] = evaluate(model, data.test, **testing, description=f"{label} test")
        for split, metrics in results.items():
            if not math.isfinite(metrics["loss"]):  # the epoch's last step broke the model: not to be saved
                raise NonFiniteLoss(f"the {split} loss is {metrics['loss']} after epoch {epoch + 1}")
            record |= {f"{split}_{name}": value for name, value in metrics.items()}
        record["seconds"] = time.perf_counter() - begin
        on_epoch_end(epoch, record)
