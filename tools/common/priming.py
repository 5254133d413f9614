"""AReS in a run (CVPR 2026, arXiv 2604.01474): the local network is primed, then its prompt learns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from algorithms.priming import ServiceIsBetter, choose, compare, prime


@dataclass(frozen=True)
class Priming:
    """The first stage: which service is asked, about which images.

    Args:
        service: images (B,3,H,W) in [0,1] -> logits (B,S).
        few: the data set whose training images are asked. The second stage may have more of them.
        asked, seen: `load_data` with the transforms of the service and of the local network. They are called with a
            data set and its `parts`.
        alone: makes the service, or the local network, a model of the targets without a prompt. Only --fallback needs
            it.
    """

    service: nn.Module
    few: Any
    asked: Callable[..., Any]
    seen: Callable[..., Any]
    alone: Callable[[nn.Module], nn.Module]

    def carry_out(self, run, network: nn.Module) -> dict[str, float]:
        """`prime`, as the flags of `add_priming_flags` say; with --fallback also `compare`, which may raise."""
        args, parts = run.args, () if run.args.fallback is None else ("val",)
        asked, seen = self.asked(self.few, parts=parts), self.seen(self.few, parts=parts)
        how = {"device": run.device, "pieces": run.pieces, "epochs": args.priming_epoch, "lr": args.priming_lr}
        record = prime(network, self.service, asked.train_as_eval, seen.train_as_eval, **how)
        if args.fallback is not None:
            record |= compare(self.alone(network), self.alone(self.service), seen, asked, args.fallback, run.pieces)
        return record


def fit_primed(
    run,
    priming: Priming,
    model: nn.Module,
    data,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    remap: Callable[[int], dict | None],
) -> dict:
    """`run.fit` of a model over a `PrimedNetwork`, with the `priming` before the first epoch. Returns the receipt.

    With --fallback it is AReS-MS: if the service is more accurate, the run ends with the service itself. The first
    record of the log has both accuracies. So a run that was stopped goes on with what it chose.

    Args:
        remap: the `on_epoch_start` of the second stage.
    """

    def start(epoch: int) -> dict:
        record = priming.carry_out(run, model.network) if epoch == 0 else {}
        return record | (remap(epoch) or {})

    run.tell(primed_images=len(priming.few.train), answered_by="local network")
    earlier = (run.folder.log.records or [{}])[0]
    try:
        if "service_acc" in earlier:
            choose(earlier["primed_acc"], earlier["service_acc"], run.args.fallback)
        return run.fit(model, data, optimizer, scheduler, on_epoch_start=start)
    except ServiceIsBetter as better:
        tested = priming.asked(data.dataset, parts=("test",))
        alone = priming.alone(priming.service)
        return run.evaluate(alone, tested, better.record, epochs=0, answered_by="service")
