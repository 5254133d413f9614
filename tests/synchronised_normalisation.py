"""Gradients of a network with normalisation over all processes, and those of one process: for test_distributed.py.

torchrun --nproc_per_node=2 tests/synchronised_normalisation.py FILE
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from algorithms import distributed, training
from tools.common import processes


class Normalised(nn.Module):
    """Batch normalisation without running statistics, by sums that autograd follows through the processes."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        total = all_reduce if self.together else lambda tensor: tensor
        count = total(torch.tensor(float(x[:, 0].numel()), dtype=x.dtype))
        mean = total(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = total((centred**2).sum((0, 2, 3))) / count
        normal = centred / (variance + 1e-5).sqrt()[:, None, None]
        return normal * self.weight[:, None, None] + self.bias[:, None, None]


def gradients(images, labels, together: bool) -> list[torch.Tensor]:
    torch.manual_seed(1)
    Normalised.together = together
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Normalised(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    training.train_one_epoch(model, [(images, labels)], optimizer, scaler)
    return [parameter.grad.clone() for parameter in model.parameters()]


processes.connect()
processes.join(torch.device("cpu"))
training.is_synchronised = lambda model: True
found = {}
for count in (8, 7, 3, 1):
    torch.manual_seed(0)
    images, labels = torch.randn(count, 3, 8, 8, dtype=torch.float64), torch.randint(5, (count,))
    part = processes.part_of_batch()
    several = gradients(images[part], labels[part], together=True)
    group, dist.is_initialized = dist.is_initialized, lambda: False  # one process, for a moment
    assert distributed.world_size() == 1
    one = gradients(images, labels, together=False)
    dist.is_initialized = group
    found[count] = (one, several)
if processes.is_first():
    torch.save(found, sys.argv[1])
processes.leave()
sys.stdout.flush()
os._exit(0)
