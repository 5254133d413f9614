"""CUDA graphs: a function's kernels are recorded once for a shape of images, and then launched by one call.

Launching the kernels of a small step one by one can take longer than computing them. `Graphed` records the function of
a batch, and its gradient, and replays them. It gives what the function gives: `Recorder` alone knows CUDA, the rest is
copying into and out of the tensors that were recorded.

- A batch smaller than the recorded one is filled up with black images. Their rows are cut off, and get the gradient 0.
- Autocast within the function is recorded with it. A gradient scaler stays outside: the scaled gradient comes in.
- torch.compile and forward hooks run Python, which a replay does not. They are refused.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from errors import RunError, UserError

_WITHOUT = "Run it without --cuda-graph."


class Recorder:
    """Records and replays work on a CUDA device. What one recorder has recorded shares its memory."""

    def __init__(self, device: torch.device):
        self.device = device
        with torch.cuda.device(device):
            self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def warm_up(self, work: Callable[[], Any], times: int = 3) -> None:
        """Does the work a few times, so that libraries choose their algorithms and get their memory before capture."""
        with torch.cuda.device(self.device):
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                for _ in range(times):
                    work()
            torch.cuda.current_stream().wait_stream(self.stream)

    def capture(self, work: Callable[[], Sequence[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
        """The tensors that the work returns, and a function that does the work again, into the same tensors."""
        graph = torch.cuda.CUDAGraph()
        # A thread that pins images, or watches other processes, must not end the capture: hence thread_local.
        how = {"pool": self.pool, "stream": self.stream, "capture_error_mode": "thread_local"}
        with torch.cuda.device(self.device), torch.cuda.graph(graph, **how):
            results = work()
        return [result.detach() for result in results], graph.replay


class Graphed:
    """The function, recorded for each shape of images, with and without gradients, and replayed.

    A batch larger than the recorded one is recorded anew. Images that themselves need a gradient, and batches without
    an image, go through the function itself.

    Args:
        function: images (B,3,h,w) -> (B,S), each row from its own image alone. It does the same work on the device for
            every batch of a shape, and reads nothing back from it.
        modules: the modules that it uses. Their parameters may change in place, and learn if they require gradients.
        required: False: where the function cannot be recorded, it is called as it is, and a warning says so.

    Raises:
        UserError: it is required, and a module has a forward hook.
        RunError: it is required, and the function cannot be recorded.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], modules: Sequence[nn.Module], required: bool = True):
        self.function, self.required, self._fails = function, required, False
        self._modules = [module for each in modules for module in each.modules()]
        self._parameters = [parameter for each in modules for parameter in each.parameters() if parameter.requires_grad]
        self._graphs: dict[tuple, _Graph] = {}

    def __call__(self, x: Tensor) -> Tensor:
        if self._fails or x.requires_grad or not len(x):
            return self.function(x)
        try:
            return self._replayed(x)
        except (UserError, RunError) as error:
            if self.required:
                raise
            self._fails = True
            warnings.warn(f"{error.found} It is computed without CUDA graphs.", stacklevel=2)
            return self.function(x)

    def _replayed(self, x: Tensor) -> Tensor:
        if any(module._forward_hooks or module._forward_pre_hooks for module in self._modules):
            hooks = "A module of the prompt or the network has a forward hook, which a recorded graph would not call."
            raise UserError("--cuda-graph replays the model without its Python code.", hooks, _WITHOUT)
        parameters = self._parameters if torch.is_grad_enabled() else []
        key = (bool(parameters), any(module.training for module in self._modules), x.shape[1:], x.dtype)
        if key not in self._graphs or len(self._graphs[key].images) < len(x):
            self._graphs.pop(key, None)  # its memory is free before the larger one is recorded
            self._graphs[key] = _Graph(self.function, x, parameters)
        graph = self._graphs[key]
        return _Replayed.apply(graph, x, *parameters) if parameters else graph.forward(x)


class _Graph:
    """The function for batches of at most this size, and its gradient if there are parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor, parameters: Sequence[Tensor]):
        self.function, self.parameters, self.replays = function, parameters, 0
        self.images = x.clone()
        recorder = Recorder(x.device)
        try:
            recorder.warm_up(self._whole)
            (self.output,), self._forward = recorder.capture(self._run)
            if parameters:
                self.gradient = torch.zeros_like(self.output)
                self.gradients, self._backward = recorder.capture(self._differentiate)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            found = f"The model cannot be recorded: {str(error).strip().splitlines()[0]}"
            raise RunError("--cuda-graph: the model has to be recorded.", found, _WITHOUT) from error
        self._root = None  # else torch would remember the recording's stream for the parameters' gradients

    def _run(self) -> list[Tensor]:
        self._root = self.function(self.images)
        return [self._root]

    def _differentiate(self) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self._root, self.parameters, self.gradient)

    def _whole(self) -> None:
        (output,) = self._run()
        if self.parameters:
            self.gradient = torch.zeros_like(output)
            self._differentiate()

    def forward(self, x: Tensor) -> Tensor:
        """The function of at most as many images as were recorded; a copy, since the next replay writes over it."""
        _fill(self.images, x)
        self.replays += 1
        self._forward()
        return self.output[: len(x)].clone()

    def gradients_of(self, gradient: Tensor, replay: int) -> list[Tensor]:
        """The parameters' gradients of that replay of `forward`, which has to be the last one."""
        if replay != self.replays:
            raise RuntimeError("backward of a batch whose activations a later batch has replaced")
        _fill(self.gradient, gradient)
        self._backward()
        return [each.clone() for each in self.gradients]


def _fill(recorded: Tensor, batch: Tensor) -> None:
    recorded[: len(batch)].copy_(batch)
    if len(batch) < len(recorded):
        recorded[len(batch) :].zero_()


class _Replayed(torch.autograd.Function):
    """`graph.forward(x)`, for autograd a function of the parameters."""

    @staticmethod
    def forward(ctx, graph: _Graph, x: Tensor, *parameters: Tensor) -> Tensor:
        output = graph.forward(x)
        ctx.graph, ctx.replay = graph, graph.replays
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.graph.gradients_of(gradient, ctx.replay)


def graphed(function: Callable[[Tensor], Tensor], prompt: nn.Module, network: nn.Module) -> Graphed | None:
    """`function`, network(prompt(x)), recorded as `network.cuda_graph` asks.

    Returns:
        None if it asks for no graphs, or if it leaves the choice and there can be none: the network learns, or the
        prompt does not say `graphable = True` (`visual_prompt.py`).

    Raises:
        UserError: it demands graphs, and there can be none.
    """
    graphable = getattr(prompt, "graphable", False)
    if not network.cuda_graph:
        leaves_it = network.cuda_graph is None and network.frozen and graphable
        return Graphed(function, (prompt, network), required=False) if leaves_it else None
    if not network.frozen:
        found = "This network learns: the images that fill up a batch would change its batch statistics."
        raise UserError("--cuda-graph records a frozen network.", found, _WITHOUT)
    if not graphable:
        name = type(prompt).__name__
        asked = "--cuda-graph records a prompt that does the same work on the GPU for every batch."
        found = f"{name} does not promise that (it may draw random numbers on the CPU)."
        raise UserError(asked, found, f"{_WITHOUT} If it does, write in class {name}: graphable = True")
    return Graphed(function, (prompt, network))
