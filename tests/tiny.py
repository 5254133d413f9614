"""A network small enough for tests, `--network tiny`, and the start of scripts that know it in their own process.

python tests/tiny.py experiments/cnn/ilm_vp.py --network tiny --dataset digits
"""

import runpy
import sys
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from data import catalog  # noqa: E402
from data.folder import Folder  # noqa: E402
from models.networks import NETWORKS, NetworkRow  # noqa: E402


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


TINY = NetworkRow(TinyNetwork, input_size=64)

SMALL = catalog.Dataset("small", Folder(), image_size=32, batch_size=8)

if __name__ == "__main__":
    torch.set_num_threads(1)
    catalog.DATASETS = (*catalog.DATASETS, SMALL)
    NETWORKS["tiny"] = TINY
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
