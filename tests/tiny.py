"""A network small enough for tests, `--network tiny`, and the start of scripts that know it in their own process.

python tests/tiny.py experiments/cnn/ilm_vp.py --network tiny --dataset digits
"""

import json
import os
import runpy
import sys
from pathlib import Path

import open_clip
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from data import catalog  # noqa: E402
from data.folder import Folder  # noqa: E402
from models.network_row import NetworkRow  # noqa: E402
from models.network_source import NETWORKS  # noqa: E402
from models.networks import CPU, Network  # noqa: E402
from tools.common import precision  # noqa: E402


class TinyNetwork(nn.Module):
    """Convolution, batch normalisation and a classifier `fc` of 1000 outputs, with weights that are always the same."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv1 = nn.Conv2d(3, 8, 5, stride=4, bias=False)
            self.bn1 = nn.BatchNorm2d(8)
            self.bn1.running_mean.normal_()
            self.bn1.running_var.uniform_(0.5, 2)
            self.conv2 = nn.Conv2d(8, 16, 3, stride=2)
            self.fc = nn.Linear(16 * 7 * 7, 1000)
            self.fc.weight.data.mul_(5)  # so that predictions differ between images

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv2(self.bn1(self.conv1(x)).relu()).flatten(1))


def network_of(body: nn.Module, num_source: int, input_size: int) -> Network:
    """A frozen network of one's own that does not normalise."""
    names = tuple(map(str, range(num_source)))
    row = NetworkRow(None, mean=(0.0,) * 3, std=(1.0,) * 3, input_size=input_size, class_names=names)
    return Network(body, row, CPU, frozen=True, setup={})


TINY = NetworkRow(TinyNetwork, input_size=64)

CLIP_ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def make_clip(folder: Path, architecture: dict = CLIP_ARCHITECTURE, seed: int = 0) -> dict[str, str]:
    """A CLIP with random weights, always the same: writes its two files, returns them by the scripts' flags."""
    config, weights = folder / "tiny-clip.json", folder / "tiny-clip.pt"
    config.write_text(json.dumps(architecture))
    open_clip.add_model_config(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = open_clip.create_model("tiny-clip")
    clip.logit_scale.data.fill_(3.0)
    torch.save(clip.state_dict(), weights)
    return {"--pretrained": str(weights), "--clip-config": str(config)}


SMALL = catalog.Dataset("small", Folder(), image_size=32, batch_size=8)


def prepare_process() -> None:
    """What conftest.py does, for a process of its own; with TINY_FLOAT64=1 also what its fixture `float64` does.

    With TINY_ONE_GPU=1 all processes of a group use the first GPU. They sum through gloo: nccl wants a GPU for each.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    if "TINY_FLOAT64" in os.environ:
        torch.Tensor.float = torch.Tensor.double
        torch.set_default_dtype(torch.float64)
    if "TINY_ONE_GPU" in os.environ:
        os.environ["LOCAL_RANK"] = "0"
        make_group = torch.distributed.init_process_group
        torch.distributed.init_process_group = lambda backend, **how: make_group("gloo", **how)
    precision.multiplies_bfloat16 = lambda: False
    catalog.DATASETS = (*catalog.DATASETS, SMALL)
    NETWORKS["tiny"] = TINY


if __name__ == "__main__":
    prepare_process()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
