"""The table of data sets: what it copies from torchvision, what a data set says to a method, what an import costs."""

import inspect
import re
import subprocess
import sys

import pytest
import torch
from make_data import make_abide
from PIL import Image
from tiny import ROOT
from torchvision import datasets
from torchvision.datasets.folder import IMG_EXTENSIONS

from data.catalog import DATASETS, find_dataset
from data.files import ENDINGS
from data.image_file import FORMATS


def test_addresses_and_checksums_are_torchvisions():
    for name, theirs in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        (archive,) = find_dataset(name).downloads
        assert (archive.urls, archive.md5) == ((theirs.url,), theirs.tgz_md5)
    files = [(file.urls, file.path, file.md5) for file in find_dataset("svhn").downloads]
    expected = [datasets.SVHN.split_list[part] for part in ("train", "test")]
    assert files == [((url,), f"svhn/{file}", md5) for url, file, md5 in expected]
    (archive,) = find_dataset("clevr").downloads
    assert (archive.urls, archive.md5) == ((datasets.CLEVRClassification._URL,), datasets.CLEVRClassification._MD5)
    _, eurosat = find_dataset("eurosat").downloads
    source = inspect.getsource(datasets.EuroSAT.download)  # torchvision 0.19 names the authors' server, 0.29 the mirror
    assert any(f'"{url}"' in source for url in eurosat.urls) and f'md5="{eurosat.md5}"' in source
    assert [url.split("/")[2] for url in eurosat.urls] == ["huggingface.co", "madm.dfki.de"], "the mirror comes first"
    _, caltech, inner = find_dataset("caltech101").downloads
    source = inspect.getsource(datasets.Caltech101.download)
    if "caltech-101.zip" in source:  # torchvision 0.19 has the archive in it from another server
        assert f'"{caltech.urls[0]}"' in source and f'md5="{caltech.md5}"' in source
    assert inner.urls == ()
    (archive,) = find_dataset("fgvc_aircraft").downloads
    assert archive.urls == (datasets.FGVCAircraft._URL,)


def test_endings_are_those_of_the_formats_that_are_read():
    Image.init()
    known = Image.registered_extensions()
    newer = {".pfm"} - known.keys()  # Pillow 10.3 is the first that knows it
    assert set(IMG_EXTENSIONS) < ENDINGS and {known[ending] for ending in ENDINGS - newer} == set(FORMATS)
    assert {ending for ending, kind in known.items() if kind in FORMATS} <= ENDINGS


@pytest.mark.parametrize(
    "row", [row for row in DATASETS if row.downloads or row.name == "abide"], ids=lambda row: row.name
)
def test_every_row_says_what_can_be_done_by_hand(row):
    assert "{data_path}/" in row.by_hand and row.by_hand.endswith(".")
    home = row.downloads[0].path.split("/")[0] if row.downloads else row.name
    folders = re.findall(r"\{data_path\}/([\w-]+)", row.by_hand.format(data_path="{data_path}"))
    assert set(folders) == {home}, "the folder that the row's downloads and its reader use"
    assert "later" not in row.by_hand


def test_addresses_that_may_stand_for_each_other_give_files_of_one_md5():
    for row in DATASETS:
        for file in row.downloads:
            assert len(file.urls) < 2 or file.md5, f"{row.name}: {file.path}"
            assert len(set(file.urls)) == len(file.urls)


def test_what_a_data_set_says_to_a_method(data_path):
    make_abide(data_path)
    splits = find_dataset("abide").read()
    assert (splits.image_size, splits.batch_size, splits.num_classes, splits.text_template) == (200, 64, 2, None)
    assert torch.equal(splits.inner_mask, torch.ones(200, 200).tril())
    digits = find_dataset("digits").read(shots=1, val_fraction=0.1)
    assert (digits.image_size, digits.batch_size, digits.num_classes, digits.inner_mask) == (32, 64, 10, None)


@pytest.mark.parametrize(
    "module, absent",
    [
        ("data.catalog", {"torch", "torchvision", "sklearn", "skimage", "h5py", "scipy"}),
        ("data.loaders", {"sklearn", "skimage", "h5py", "scipy"}),
    ],
)
def test_import_brings_only_what_every_data_set_needs(module, absent):
    code = f"import sys, {module}; print(*(sys.modules.keys() & {absent!r}))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == ""
