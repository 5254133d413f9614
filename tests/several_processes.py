"""What each of several processes runs in tests/test_distributed.py: scripts one after the other, in one group.

torchrun --nproc_per_node=2 tests/several_processes.py '[["experiments/cnn/ilm_vp", "--network", "tiny", ...], ...]'
"""

import json
import os
import sys

from conftest import load_script
from tiny import prepare_process

from tools.common import processes

prepare_process()
processes.connect()
for script, *argv in json.loads(sys.argv[1]):
    load_script(script).main(argv)
processes.leave()
sys.stdout.flush()
os._exit(0)
