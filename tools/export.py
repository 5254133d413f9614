"""A saved prompt, head or network as one file that runs without this repository.

    python tools/export.py --checkpoint results/cnn/ilm_vp/RUN/best.pth --format onnx
    python tools/export.py --checkpoint FILE --format torch.export --output my_model.pt2

The file takes `images` (B,3,h,w) float32 in [0,1], resized as for evaluation, for any B, and gives `logits` (B,T). The
prompt, the network's normalisation and the map are inside. The names of the T classes are in the file, too. Before it
is written, its logits are compared with the checkpoint's; the largest difference is printed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import inspect
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from errors import RunError, UserError
from models.sentence_mapping import WeightedSentences, folded
from tools.common.args import Parser, add_checkpoint_flags
from tools.common.command import run_command
from tools.common.files import write_whole
from tools.common.flag_types import new_file
from tools.load import load

BATCHES = (1, 2, 5)  # images in the batches that are compared
LARGEST = 1e-3  # difference that rounding may make, as a fraction of the largest logit
CLASS_NAMES = "class_names"  # a JSON list of names: ONNX's metadata, and torch.export's extra file


class Format(NamedTuple):
    """How a file of one kind is made, (model, images) and class names -> content, and run, content -> function."""

    ending: str
    make: Callable[[nn.Module, Tensor, Sequence[str]], bytes]
    open: Callable[[bytes], Callable[[Tensor], Tensor]]


class Exported(nn.Module):
    """A model in eval mode whose input is called `images`."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


def make_program(model: nn.Module, images: Tensor, class_names: Sequence[str]) -> bytes:
    shapes = {"images": {0: torch.export.Dim("batch", min=1)}}
    program, file = torch.export.export(Exported(model), (images,), dynamic_shapes=shapes), io.BytesIO()
    torch.export.save(program, file, extra_files={CLASS_NAMES: json.dumps(list(class_names))})
    return file.getvalue()


def open_program(content: bytes) -> Callable[[Tensor], Tensor]:
    return torch.export.load(io.BytesIO(content)).module()


def make_onnx(model: nn.Module, images: Tensor, class_names: Sequence[str]) -> bytes:
    shapes = {"images": {0: "batch"}}
    names = {"input_names": ["images"], "output_names": ["logits"]}
    exported = torch.onnx.export(Exported(model), (images,), dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
    exported.model.metadata_props[CLASS_NAMES] = json.dumps(list(class_names))
    return exported.model_proto.SerializeToString()


def open_onnx(content: bytes) -> Callable[[Tensor], Tensor]:
    from onnxruntime import InferenceSession

    session = InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


FORMATS = {
    "onnx": Format(".onnx", make_onnx, open_onnx),
    "torch.export": Format(".pt2", make_program, open_program),
}


def main(argv: list[str] | None = None) -> Path:
    parser = Parser(__file__, __doc__)
    add_checkpoint_flags(parser, machine=False)
    parser.add_argument("--format", choices=FORMATS, required=True, help="onnx needs three more packages")
    endings = [each.ending for each in FORMATS.values()]
    parser.add_argument("--output", type=new_file(*endings), metavar="FILE", help="default: beside the checkpoint")
    args = parser.parse_args(argv)
    if args.format == "onnx":
        require_onnx()
    args.device, args.precision = torch.device("cpu"), "float32"
    model, transform, class_names = load(args, plain=True)  # what makes it faster here would stand in the file
    chosen, shape = FORMATS[args.format], transform(Image.new("RGB", (640, 480))).shape
    try:
        with torch.no_grad(), attention_as_written():
            written = folded(model, class_names) if _folds(model) else model
            content = chosen.make(written, torch.rand(2, *shape), class_names)
            exported = chosen.open(content)
    except Exception as error:  # PyTorch's exporters raise many kinds
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise refused(args, f"PyTorch cannot export this model: {reason}") from None
    difference, largest = compare(model, exported, shape)
    if not difference <= LARGEST * largest:
        raise refused(args, f"Its logits differ by up to {difference:.2g} from the checkpoint's.")
    output = args.output or args.checkpoint.with_suffix(chosen.ending)
    write_whole(output, lambda file: file.write_bytes(content))
    print(f"{output}: images (B,{','.join(map(str, shape))}) -> logits (B,{len(class_names)})")
    print(f"Largest difference to the checkpoint's logits: {difference:.2g} (they go up to {largest:.2g})")
    return output


def _folds(model: nn.Module) -> bool:
    """Whether it is RVP's, whose sentences and weights are one linear head."""
    return isinstance(getattr(model, "mapping", None), WeightedSentences)


@contextmanager
def attention_as_written() -> Iterator[None]:
    """Without PyTorch's one operator for a layer of attention, which PyTorch 2.4 cannot export."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def require_onnx() -> None:
    """Raises UserError if a package is missing, or if PyTorch is too old."""
    missing = []
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    if missing:
        next_step = f"Type pip install {' '.join(missing)}, or --format torch.export, which needs no package."
        raise UserError(
            "--format onnx: packages make and check the file.", f"Missing: {', '.join(missing)}.", next_step
        )
    if "dynamo" not in inspect.signature(torch.onnx.export).parameters:
        found, next_step = f"This is PyTorch {torch.__version__}.", "Type --format torch.export, or update PyTorch."
        raise UserError("--format onnx: PyTorch 2.6 or newer is needed.", found, next_step)


@torch.no_grad()
def compare(model: nn.Module, other: Callable[[Tensor], Tensor], shape: Sequence[int]) -> tuple[float, float]:
    """The largest difference of their logits, and the largest logit, over images that are drawn at random."""
    generator = torch.Generator().manual_seed(0)
    differences, sizes = [], []
    for count in BATCHES:
        images = torch.rand(count, *shape, generator=generator)
        logits = model(images)
        differences.append((other(images) - logits).abs().max().item())
        sizes.append(logits.abs().max().item())
    return max(differences), max(sizes)


def refused(args: argparse.Namespace, found: str) -> RunError:
    asked = f"{args.checkpoint}: --format {args.format} is wanted."
    return RunError(asked, f"{found} No file is written.", "Use load_prompted (tools/load.py): it runs any checkpoint.")


if __name__ == "__main__":
    run_command(main)
