"""What tests share: a results folder and a data folder of their own, the network `tiny` and the data set `small`."""

import gc
import importlib.util
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from make_data import make_attributes, make_folders
from matplotlib.figure import Figure
from PIL import Image
from tiny import ROOT, SMALL, TINY, make_clip
from torch.utils._python_dispatch import TorchDispatchMode

import cfg
from data import catalog
from models.network_source import NETWORKS
from tools.common.run import experiment

SAVEFIG = Figure.savefig
if "OMP_NUM_THREADS" not in os.environ:  # if the variable is set, its number of threads is wanted
    torch.set_num_threads(1)  # the work is small, and another process may be using the other cores


def pytest_collection_finish():
    """A run collects garbage after every epoch. The collector need not look at the imported modules each time."""
    gc.collect()
    gc.freeze()


def noise_instead(figure: Figure, file, **how) -> None:
    """Drawing takes longer than a tiny network's epoch, so most tests get this PNG file instead of a figure."""
    if not isinstance(file, str | Path):
        return SAVEFIG(figure, file, **how)
    with Path(file).open("wb") as png:
        Image.frombytes("RGB", (64, 64), random.Random(0).randbytes(3 * 64 * 64)).save(png, "PNG")


@pytest.fixture(scope="session", autouse=True)
def quick_figures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", noise_instead)
        yield


@pytest.fixture
def figures(monkeypatch) -> None:
    """Figures are really drawn."""
    monkeypatch.setattr(Figure, "savefig", SAVEFIG)


@pytest.fixture(autouse=True)
def own_machine(tmp_path, monkeypatch):
    """No test reads the developer's data, results, caches or device."""
    monkeypatch.setattr(cfg, "data_path", tmp_path / "datasets")
    monkeypatch.setattr(cfg, "results_path", tmp_path / "results")
    monkeypatch.setattr(cfg, "device", "cpu")
    monkeypatch.setattr(cfg, "precision", "auto")
    monkeypatch.setattr("tools.common.precision.multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(cfg, "memory", "auto")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setitem(NETWORKS, "tiny", TINY)
    monkeypatch.setattr(catalog, "DATASETS", (*catalog.DATASETS, SMALL))


@pytest.fixture
def float64(monkeypatch) -> Iterator[None]:
    """Whatever the test makes is float64, `Tensor.float` gives float64 too.

    Two ways of computing one number then differ by 1e-16 times a few powers of ten: a tolerance of 1e-9 holds on every
    machine, and rounding decides no argmax and moves no activation to the other side of a kink.
    """
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def data_path(tmp_path, monkeypatch, own_machine):
    """A data folder to lay data sets out in, as cfg.data_path."""
    monkeypatch.setattr(cfg, "data_path", tmp_path)
    return tmp_path


@pytest.fixture
def cache(data_path):
    """Where decoded pixels are kept."""
    return data_path / ".cache"


@pytest.fixture
def small(own_machine) -> Path:
    """The folder of the data set `small`: 4 classes with 6 training, 3 validation and 5 test images each."""
    classes, counts = ("ant", "bee", "cow", "doe"), {"train": 6, "val": 3, "test": 5}
    make_folders(cfg.data_path, "small", classes=classes, counts=counts)
    return cfg.data_path / "small"


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory) -> dict[str, str]:
    """A CLIP with random weights and 32-pixel input: the flags that name its files."""
    return make_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def words(tiny_clip) -> Callable:
    """words("experiments/cnn/ilm_vp") -> the flags that let a script run on tiny things, in a moment."""

    def choose(script: str) -> tuple[str, ...]:
        network = () if "/clip/" in script and not script.endswith("ares") else ("--network", "tiny")
        network += ("--service", "tiny") if script.endswith("cnn/ares") else ()
        if "/clip/" in script or script.endswith("semantic_vp"):
            network += sum(tiny_clip.items(), ())
        faster = FASTER.get(script.rpartition("/")[2], ())
        if script.endswith(SENTENCES):
            faster += ("--attributes", str(make_attributes(cfg.data_path / "attributes")))
        return (*network, "--dataset", "small", *faster)

    return choose


# Where a script's own defaults are not those of the others: seed 7 and the batch size of `small` everywhere.
FASTER = {
    "evp": ("--seed", "7", "--batch-size", "8", "--lr", "2"),
    "vp": ("--batch-size", "8", "--warmup", "2"),
    "fully_vp": ("--batch-size", "8"),
    "auto_vp": ("--batch-size", "8"),
    **dict.fromkeys(("blm_vp", "blmp_vp", "smm", "watermark_vp"), ("--batch-size", "8")),
    "lor_vp": ("--seed", "7", "--batch-size", "8"),
    "acavp": ("--batch-size", "8"),
    "attr_vr": ("--batch-size", "8"),
    "ares": ("--batch-size", "8", "--priming-epoch", "3"),
    "dvp": ("--batch-size", "8"),
    "rvp": ("--batch-size", "8"),
    "bar": ("--batch-size", "8", "--passes", "1", "--draws", "1"),
    "blackvip": ("--batch-size", "8", "--passes", "1", "--draws", "1", "--encoder", "tiny"),
    "dam_vp": ("--seed", "7", "--batch-size", "8", "--clusters", "3"),
    "c_avp": ("--batch-size", "8", "--attack-steps", "1"),
}
SENTENCES = ("/attr_vr", "/dvp", "/rvp")  # the scripts that need --attributes


def load_script(path: str, root: Path = ROOT):
    """A script of experiments/ or tools/ below `root` as a module; experiments/ is no package."""
    specification = importlib.util.spec_from_file_location(path.replace("/", "_"), root / f"{path}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    if hasattr(module, "train"):  # an experiment, as its last line carries it out
        module.main = lambda argv=None: experiment(module.train, module.parser, argv)
    return module


@pytest.fixture
def run_script() -> Callable:
    """run_script("experiments/cnn/ilm_vp", "--network", "tiny", ...) -> what its main returns."""
    return lambda path, *argv: load_script(path).main([str(word) for word in argv])


class Calls(TorchDispatchMode):
    """The names of torch's operations, such as `aten.add`, in the order of their calls. Views are left out."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.names.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


def same(a, b) -> bool:
    """Equality to the bit of nested dicts and lists with tensors in them."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
