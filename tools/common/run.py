"""A run: what an experiment's flags say, its training, and the one line that ends every script."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import cfg
from algorithms.distributed import world_size
from algorithms.losses import Loss, cross_entropy
from algorithms.mapping_rules import ALL_MAPPINGS
from algorithms.predictions import PredictionCounter, Predictions, TargetPredictions, count_predictions
from algorithms.training import Observer, evaluate, fit, progress
from errors import UserError
from tools.common.args import Parser, check_cuda_graph, selection
from tools.common.asked import Asked
from tools.common.command import run_command
from tools.common.machine import prepare_device
from tools.common.mapping_record import MappingRecord
from tools.common.memory import pieces_for
from tools.common.precision import resolve_precision
from tools.common.processes import join, part_of_batch
from tools.common.run_folder import AlreadyFinished, RunFolder
from tools.common.stopped import explain


def run_experiment(train: Callable[[argparse.Namespace, "Run"], dict], parser: Parser) -> None:
    """The last line of a script: it carries out the command that was typed."""
    run_command(lambda: experiment(train, parser))


def experiment(
    train: Callable[[argparse.Namespace, "Run"], dict], parser: Parser, argv: list[str] | None = None
) -> dict:
    """One run. Returns its receipt: from the folder of a finished run, else from `train(args, run)`."""
    args = parser.parse_args(argv)
    with Run(args, parser) as run:
        try:
            return train(args, run)
        except AlreadyFinished:
            return run.folder.report()


class Run:
    """The second argument of `train(args, run)`.

    It is a context manager. Entering it locks the run's folder and seeds torch. Leaving it saves how the run ended.

    Attributes:
        device, precision, plain, compile, share_border, cuda_graph: where and how it computes (`Execution`).
        folder: the run's files.
        pieces: in which pieces batches are computed, so that they fit into the memory (--memory).
    """

    def __init__(self, args: argparse.Namespace, parser: Parser):
        self.args = args
        self.device = args.device
        self.precision = resolve_precision(args.precision, args.device, parser.auto_bfloat16)
        check_cuda_graph(args)
        self.plain, self.compile, self.share_border = args.plain, args.compile, args.share_border
        self.cuda_graph = args.cuda_graph
        self.pieces = pieces_for(args.memory, self.device, self.plain)
        self.folder = RunFolder(args, parser, self.precision)
        self._mapping_record = MappingRecord()

    def __enter__(self) -> "Run":
        join(self.device)
        self.folder.open()
        self.precision = self.folder.precision
        torch.manual_seed(self.args.seed)
        prepare_device(self.device, self.plain)
        return self

    def __exit__(self, kind, error, traceback) -> None:
        kept = self.folder.close(error)
        if explanation := explain(error, self.args, kept):
            raise explanation from None

    def identify(self, **identity: Any) -> None:
        """Compares what the run computes with, beside its flags, with an earlier start: data and weights.

        `read_dataset`, `load_network`, `load_clip` and `fit` call this. A run that an earlier start finished with the
        same data and weights ends where it tells its weights.
        """
        self.folder.identify(**identity)

    def earlier(self, key: str) -> Any:
        """What the checkpoint that this run continues from holds under this key, on the CPU; None at a first start.

        It is for what the shape of a part depends on. `fit` loads the parts themselves.
        """
        return self.folder.earlier(key)

    def tell(self, **receipt: Any) -> None:
        """More entries of result.json, in plain values."""
        self.folder.receipt |= receipt

    @property
    def selection(self) -> dict[str, Any]:
        """The flags that choose training images, as `Dataset.read` takes them."""
        return selection(self.args)

    def loading(self, default_batch_size: int) -> dict[str, Any]:
        """The flags that say how images are loaded, as `build_data` takes them."""
        size = self.folder.receipt["batch_size"] = self.args.batch_size or default_batch_size
        if size < world_size():
            found = f"{world_size()} processes divide each batch, and each process needs an image."
            raise UserError(f"--batch-size {size} is for all processes together.", found, "Start fewer processes.")
        return {
            "batch_size": size,
            "augment": self.args.augment,
            "part": part_of_batch(),
            "device": self.device,
            "workers": self.args.workers,
            "gpu_cache_fraction": self.args.gpu_cache_fraction,
            "cache_folder": None if self.args.plain else cfg.data_path / ".cache",
        }

    def count_predictions(self, model, loader, top: int | None = None) -> Tensor:
        """(S,T): how often the prompted network predicts each source label for the images of each target.

        With `--mapping-source train`, from the second epoch on, these are the predictions of the last epoch of
        training. Else they are the predictions of a pass over the `loader`, without what --augment adds to it.

        Args:
            top: None: the most probable source label of each image counts 1, int64; with `--mapping-counts
                probabilities` all source labels count their probabilities, float64. A number: only the `top` most
                probable ones count theirs.
        """
        num_source = len(model.network.class_names)
        if top is None and getattr(self.args, "mapping_counts", None) == "probabilities":
            top = num_source
        record = self._mapping_record
        if record.training_counter is not None:
            record.training_counter.top = top
        record.made_from = record.trained
        if record.made_from is None:
            counter = PredictionCounter(num_source, model.mapping.num_target, top)
            record.made_from = self.counted(model, loader, counter)
        return record.made_from.counts if top is None else record.made_from.masses

    def counted(self, model, loader, counter: PredictionCounter) -> Predictions:
        """What the counter counts in a pass over the `loader`, without what --augment adds to it."""
        model.eval()  # a prompt may have batch normalisation
        if not getattr(model.network, "gives_gradients", True):
            model.network.train()  # it counts these questions to its budget
        batches = progress(loader.unaugmented, "mapping")
        return count_predictions(model.source_logits, batches, counter, self.pieces)

    def remapping(self, model, loader) -> Callable[[int], None]:
        """The `on_epoch_start` that makes the mapping of --mapping, as `algorithms/mapping_rules.py` has it."""
        rule = ALL_MAPPINGS[self.args.mapping]
        shape = len(model.network.class_names), model.mapping.num_target

        def remap(epoch: int) -> None:
            due = epoch % self.args.mapping_interval == 0 if rule.again else epoch == 0
            if rule.make is None or not due:
                return
            if rule.counted:
                counts = self.count_predictions(model, loader, rule.top and rule.top(shape[1]))
            else:
                counts = torch.empty(shape, device="meta")
            model.mapping.set(rule.make(counts, self.args, model.mapping.sources))

        return remap

    def fit(
        self,
        model: nn.Module,
        data,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        *,
        on_epoch_start: Callable[[int], dict | None] = lambda epoch: None,
        on_epoch_trained: Callable[[int], dict | None] = lambda epoch: None,
        observe_train: Observer | None = None,
        schedule_steps: bool = False,
        network: nn.Module | None = None,
        loss: Loss = cross_entropy,
    ) -> dict:
        """Trains to the last epoch, from where an earlier start of this run stopped. Evaluates and saves after each.

        Args:
            model: images (B,3,h,w) in [0,1] -> target logits (B,T); its `saved` and `setup` go into checkpoints.
            data: what `load_data` gave.
            scheduler: stepped once an epoch, or with `schedule_steps` after each step of the optimizer.
            on_epoch_start: called with each epoch, counted from 0, before it trains; what it returns is logged.
            on_epoch_trained: the same, between an epoch's training and its evaluation.
            observe_train: gets the source logits and labels of the training passes; not beside --mapping-source.
            network: the frozen network whose features `data` holds, if the model is only a new last layer.
            loss: what training minimises, summed over a batch's images.

        Returns:
            The receipt of the finished run.
        """
        if self.cuda_graph and getattr(model, "graphed", None) is None:
            found = f"{self.args.method} trains none that can be recorded."
            raise UserError("--cuda-graph is for a visual prompt.", found, "Run it without --cuda-graph.")
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")
        parts = {**model.saved, "optimizer_dict": optimizer, "scheduler_dict": scheduler, "scaler_dict": scaler}
        mapping, asked = getattr(model, "mapping", None), Asked(self.folder, model, optimizer)
        parts |= asked.parts
        tested, record = None, self._mapping_record
        if mapping is not None:
            tested = self._drawn_counter(model, data)
            if getattr(self.args, "mapping_source", None) == "train":
                record.training_counter = parts["counter_dict"] = self._counter(model)
            hooks = record.hooks(on_epoch_start, on_epoch_trained, model, data.class_names)
            on_epoch_start, on_epoch_trained = hooks
        setup = {**data.setup, **(network.setup if network else {}), **model.setup}
        start_epoch = self.folder.track(setup, data.dataset.sizes, parts)
        self.folder.tested = TargetPredictions(data.test.labels, data.test.positions)
        fit(
            model,
            data,
            optimizer,
            scheduler,
            epochs=self.args.epoch,
            seed=self.args.seed,
            scaler=scaler,
            start_epoch=start_epoch,
            schedule_steps=schedule_steps,
            on_epoch_start=on_epoch_start,
            on_epoch_trained=on_epoch_trained,
            on_epoch_end=asked.end_epoch,
            observe_train=observe_train or record.training_counter,
            observe_test=tested,
            observe_targets=self.folder.tested,
            pieces=self.pieces,
            loss=loss,
        )
        asked.end()
        if mapping is None:
            return self.folder.finish()
        receipt = {"mapping": mapping.named(model.network.class_names, data.class_names)}
        if hasattr(self.args, "mapping_source"):
            receipt["mapping_source"] = self.args.mapping_source
        return self.folder.finish(**receipt)

    def evaluate(self, model: nn.Module, data, record: dict[str, Any] | None = None, **receipt: Any) -> dict:
        """A run without training: the model's test accuracy, saved and printed like that of a trained model.

        `receipt` are more entries of result.json; those of `record` are in the log, too.
        """
        record, questions = record or {}, getattr(model.network, "questions", None)
        counter = self._drawn_counter(model, data)
        parts = model.saved | ({"questions_dict": questions} if questions else {})
        self.folder.track({**data.setup, **model.setup}, data.dataset.sizes, parts)
        targets = self.folder.tested = TargetPredictions(data.test.labels, data.test.positions)
        if not self.folder.log.records:  # else an earlier start stopped just before its end
            begin = time.perf_counter()
            observers = {"observe": counter, "observe_targets": targets}
            result = evaluate(model, data.test, **observers, pieces=self.pieces, description="test")
            seconds = {"seconds": time.perf_counter() - begin}
            self.folder.end_epoch(0, record | {f"test_{name}": value for name, value in result.items()} | seconds)
        return self.folder.finish(**receipt, **record, **(questions.record if questions else {}))

    @staticmethod
    def _counter(model) -> PredictionCounter:
        return PredictionCounter(len(model.network.class_names), model.mapping.num_target)

    def _drawn_counter(self, model, data) -> PredictionCounter:
        """A counter for the test predictions, which the heat map shows."""
        counter = self._counter(model)
        self.folder.figures.of_prompted(model, data.class_names, data.test.examples, counter)
        return counter
