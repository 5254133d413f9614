"""Settings of this machine. Edit a line, or set the environment variable in it."""

import os
from pathlib import Path

_checkout = Path(__file__).resolve().parent

# The data sets lie here, one folder each (docs/data.md). Their decoded images lie in `.cache/`.
data_path = Path(os.environ.get("VP_DATA_PATH") or _checkout / "datasets").expanduser().absolute()

# Every run makes its folder here: checkpoint, log, figures, result.json (docs/results.md).
results_path = Path(os.environ.get("VP_RESULTS_PATH") or _checkout / "results").expanduser().absolute()

# auto (CUDA where there is one, else the CPU), cpu, cuda, cuda:1, mps. The flag --device overrides it.
device = os.environ.get("VP_DEVICE") or "auto"

# auto (float16 on CUDA, else float32: docs/speed.md), float32, bfloat16, float16. The flag --precision overrides it.
precision = os.environ.get("VP_PRECISION") or "auto"

# A split's decoded images are kept on the GPU if they take at most this fraction of its free memory, in [0,1]. The flag
# --gpu-cache-fraction overrides it.
gpu_cache_fraction = os.environ.get("VP_GPU_CACHE_FRACTION") or "0.3"

# GB (10^9 bytes) that a run may use on the device, or auto: half of what is free there. Batches that do not fit are
# computed in pieces (docs/speed.md). The flag --memory overrides it.
memory = os.environ.get("VP_MEMORY") or "auto"

# How many processes decode images that no cache holds: a number, or auto. auto is up to 8, and 0 if the network runs on
# the CPU, since it needs the cores. The flag --workers overrides it.
workers = os.environ.get("VP_WORKERS") or "auto"

# How many images a second a service behind HTTP is asked at most (docs/black_box.md). Empty: as fast as it answers. The
# service's key comes from the environment variable VP_SERVICE_KEY alone.
service_rate = os.environ.get("VP_SERVICE_RATE") or ""
