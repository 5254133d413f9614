"""What belongs to this machine. Edit a line, or set the environment variable that it names."""

import os
from pathlib import Path

_checkout = Path(__file__).resolve().parent

# One folder a data set lies here (README, "Data sets"), and beside them `.cache/` with their decoded images.
data_path = Path(os.environ.get("VP_DATA_PATH") or _checkout / "datasets").expanduser().absolute()

# Every run makes its folder here: checkpoint, log, figures, result.json (README, "What a run leaves").
results_path = Path(os.environ.get("VP_RESULTS_PATH") or _checkout / "results").expanduser().absolute()

# auto (CUDA where there is one, else the CPU), cpu, cuda, cuda:1, mps. The flag --device goes before it.
device = os.environ.get("VP_DEVICE") or "auto"

# auto (float16 on CUDA, float32 elsewhere), float32, bfloat16, float16. The flag --precision goes before it.
precision = os.environ.get("VP_PRECISION") or "auto"

# A split's decoded images are kept on the GPU where they take at most this share of its free memory, in [0,1]. The flag
# --gpu-cache-fraction goes before it.
gpu_cache_fraction = os.environ.get("VP_GPU_CACHE_FRACTION") or "0.3"

# Processes that decode images where no cache holds them: a number, or auto (up to 8; none where the network runs on the
# CPU, whose cores and memory they would take away). The flag --workers goes before it.
workers = os.environ.get("VP_WORKERS") or "auto"
