"""The table of data sets: what it copies from torchvision, what a data set says to a method, what an import costs."""

import subprocess
import sys

import pytest
import torch
from make_data import make_abide
from PIL import Image
from tiny import ROOT
from torchvision import datasets
from torchvision.datasets.folder import IMG_EXTENSIONS

from data.catalog import find_dataset
from data.files import ENDINGS
from data.image_file import FORMATS


def test_addresses_and_checksums_are_torchvisions():
    for name, theirs in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        (archive,) = find_dataset(name).downloads
        assert (archive.url, archive.md5) == (theirs.url, theirs.tgz_md5)
    files = [(file.url, file.path, file.md5) for file in find_dataset("svhn").downloads]
    expected = [datasets.SVHN.split_list[part] for part in ("train", "test")]
    assert files == [(url, f"svhn/{file}", md5) for url, file, md5 in expected]
    (archive,) = find_dataset("clevr").downloads
    assert (archive.url, archive.md5) == (datasets.CLEVRClassification._URL, datasets.CLEVRClassification._MD5)


def test_endings_are_those_of_the_formats_that_are_read():
    Image.init()
    known = Image.registered_extensions()
    assert set(IMG_EXTENSIONS) < ENDINGS and {known[ending] for ending in ENDINGS} == set(FORMATS)
    assert {ending for ending, kind in known.items() if kind in FORMATS} <= ENDINGS


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
