"""What each of several processes runs in tests/test_distributed.py: scripts one after the other, in one group.

torchrun --nproc_per_node=2 tests/several_processes.py '[["experiments/cnn/ilm_vp", "--network", "tiny", ...], ...]'
"""

import json
import os
import sys

import torch
from conftest import load_script
from tiny import SMALL, TINY

from data import catalog
from models.networks import NETWORKS
from tools.common import processes

torch.set_num_threads(1)
catalog.DATASETS = (*catalog.DATASETS, SMALL)
NETWORKS["tiny"] = TINY
processes.connect()
for script, *argv in json.loads(sys.argv[1]):
    load_script(script).main(argv)
processes.leave()
sys.stdout.flush()
os._exit(0)
