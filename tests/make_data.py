"""Small data sets in their real formats, for the tests.

Each function writes one below a folder and returns what must be read from it: by split, a list of (pixels, label) in
the split's order, pixels (h,w,3) uint8. Those with a `monkeypatch` put the small files' checksums into torchvision.
"""

import csv
import hashlib
import io
import json
import pickle
from pathlib import Path

import h5py
import lmdb
import numpy as np
import scipy.io
from PIL import Image
from torchvision import datasets

Expected = dict[str, list[tuple[np.ndarray, int]]]

CLASSES = ("Pink_Primrose", "banded", "bird-of-Paradise")
COUNTS = {"train": 3, "val": 1, "test": 2}  # images a class


def noise(seed: int, width: int = 24, height: int = 20) -> np.ndarray:
    """(height,width,3) uint8, another picture for each seed."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file's content."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_image(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Writes the format that the path ends with; returns the pixels as they are read back (a JPEG is lossy)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def make_coop(
    root: Path,
    folder: str = "dtd",
    images: str = "dtd/images",
    split_file: str = "split_zhou_DescribableTextures.json",
    *,
    classes: tuple[str, ...] = CLASSES,
    counts: dict[str, int] = COUNTS,
    ending: str = ".jpg",
) -> Expected:
    """A split file root/folder/split_file, and its images below root/images."""
    expected: Expected = {part: [] for part in counts}
    rows: dict[str, list] = {part: [] for part in counts}
    for part, count in counts.items():
        for number in range(count):
            for label, class_name in enumerate(classes):
                path = f"{class_name}/{part}_{number}{ending}"
                pixels = noise(sum(map(len, expected.values())), width=24 + label)
                expected[part].append((write_image(root / images / path, pixels), label))
                rows[part].append([path, label, class_name])
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / split_file).write_text(json.dumps(rows))
    return expected


def make_folders(
    root: Path,
    name: str = "mine",
    *,
    classes: tuple[str, ...] = CLASSES,
    counts: dict[str, int] = COUNTS,
    ending: str = ".png",
) -> Expected:
    """root/NAME/train/CLASS/*.png, and the same for the other splits of `counts`; labels in the order of the names."""
    expected: Expected = {part: [] for part in counts}
    for part, count in counts.items():
        for label, class_name in enumerate(sorted(classes)):
            for number in range(count):
                pixels = noise(sum(map(len, expected.values())), width=24 + label)
                path = root / name / part / class_name / f"{number:03}{ending}"
                expected[part].append((write_image(path, pixels), label))
    return expected


def write_lmdb(path: Path, values: list, *, protocol: int = 4, subdir: bool = False, **special: bytes) -> None:
    """One LMDB of pickled `values`, a file or a folder; `special` replaces the pickles of `__len__` or `__keys__`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = [str(number).encode() for number in range(len(values))]
    how = {"subdir": subdir, "map_size": 1 << 24, "sync": False}
    with lmdb.open(str(path), **how) as environment, environment.begin(write=True) as to:
        for key, value in zip(keys, values, strict=True):
            to.put(key, value if isinstance(value, bytes) else pickle.dumps(value, protocol=protocol))
        to.put(b"__len__", special.get("__len__", pickle.dumps(len(keys), protocol=protocol)))
        to.put(b"__keys__", special.get("__keys__", pickle.dumps(keys, protocol=protocol)))


def make_lmdb(
    root: Path,
    name: str = "dtd",
    *,
    classes: tuple[str, ...] = CLASSES,
    counts: dict[str, int] = COUNTS,
    protocol: int = 4,
) -> Expected:
    """The original ILM-VP repository's layout: root/NAME/split.json and train.lmdb, val.lmdb, test.lmdb."""
    expected: Expected = {}
    rows = {}
    for part, count in counts.items():
        labels = [label for _ in range(count) for label in range(len(classes))]
        expected[part] = [(noise(len(part) * 1000 + i, 5, 4), label) for i, label in enumerate(labels)]
        values = [(encoded(pixels), label) for pixels, label in expected[part]]
        write_lmdb(root / name / f"{part}.lmdb", values, protocol=protocol)
        rows[part] = [[f"{part}/{i}.jpg", label, classes[label]] for i, label in enumerate(labels)]
    (root / name / "split.json").write_text(json.dumps(rows))
    return expected


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def make_cifar(root: Path, monkeypatch, dataset: type[datasets.CIFAR10] = datasets.CIFAR10, each: int = 20) -> Expected:
    """root/cifar-10-batches-py (or cifar-100-python) with `each` images a file, as the archive unpacks."""
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    names = CIFAR_NAMES[dataset]
    label_key = "labels" if dataset is datasets.CIFAR10 else "fine_labels"
    expected: Expected = {"train": [], "test": []}
    for part, files in (("train", dataset.train_list), ("test", dataset.test_list)):
        checksums = []
        for file, _ in files:
            pixels = np.stack([noise(len(file) * 100 + len(expected[part]) + i, 32, 32) for i in range(each)])
            labels = [(3 * i + len(expected[part])) % len(names) for i in range(each)]
            planes = pixels.transpose(0, 3, 1, 2).reshape(each, 3 * 32 * 32)  # all red values, then green, then blue
            (folder / file).write_bytes(pickle.dumps({"data": planes, label_key: labels}, protocol=2))
            expected[part] += list(zip(pixels, labels, strict=True))
            checksums.append([file, md5(folder / file)])
        monkeypatch.setattr(dataset, f"{part}_list", checksums)
    meta = folder / dataset.meta["filename"]
    meta.write_bytes(pickle.dumps({dataset.meta["key"]: list(names)}, protocol=2))
    monkeypatch.setattr(dataset, "meta", dataset.meta | {"md5": md5(meta)})
    return expected


CIFAR_NAMES = {
    datasets.CIFAR10: tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
    datasets.CIFAR100: tuple(f"thing_{i}" for i in range(100)),
}


def make_svhn(root: Path, monkeypatch, train: int = 20, test: int = 10) -> Expected:
    """root/train_32x32.mat and test_32x32.mat; the digit 0 has the label 10 in these files."""
    root.mkdir(parents=True, exist_ok=True)
    expected: Expected = {}
    split_list = dict(datasets.SVHN.split_list)
    for part, count in (("train", train), ("test", test)):
        labels = [(7 * i + 1) % 10 for i in range(count)]
        expected[part] = [(noise(500 + len(part) * 100 + i, 32, 32), label) for i, label in enumerate(labels)]
        file = root / f"{part}_32x32.mat"
        pixels = np.stack([image for image, _ in expected[part]], axis=3)
        scipy.io.savemat(file, {"X": pixels, "y": np.array([[label or 10] for label in labels], np.uint8)})
        split_list[part] = [split_list[part][0], file.name, md5(file)]
    monkeypatch.setattr(datasets.SVHN, "split_list", split_list)
    return expected


def make_gtsrb(root: Path, train: int = 1, test: int = 6) -> Expected:
    """root/gtsrb/GTSRB and root/gtsrb/GT-final_test.csv: `train` images a class, `test` in all."""
    home = root / "gtsrb"
    expected: Expected = {"train": [], "test": []}
    for label in range(43):
        folder = home / "GTSRB" / "Training" / f"{label:05}"
        for number in range(train):
            pixels = noise(2000 + label * train + number, 30 + label, 28)
            expected["train"].append((write_image(folder / f"00000_{number:05}.ppm", pixels), label))
        (folder / f"GT-{label:05}.csv").write_text("Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n")
    with (home / "GT-final_test.csv").open("w", newline="") as file:
        table = csv.writer(file, delimiter=";")
        table.writerow("Filename Width Height Roi.X1 Roi.Y1 Roi.X2 Roi.Y2 ClassId".split())
        for number in range(test):
            label = (number * 11 + 5) % 43
            path = home / "GTSRB" / "Final_Test" / "Images" / f"{number:05}.ppm"
            expected["test"].append((write_image(path, noise(3000 + number, 25, 33)), label))
            table.writerow([path.name, 25, 33, 5, 6, 20, 28, label])
    return expected


def make_clevr(root: Path, train: int = 16, val: int = 8) -> Expected:
    """root/clevr/CLEVR_v1.0, images with 3, 4, ... 10, 3, ... objects; the scenes in another order than the files."""
    home = root / "clevr" / "CLEVR_v1.0"
    expected: Expected = {"train": [], "test": []}
    for part, split, count in (("train", "train", train), ("val", "test", val)):
        scenes = []
        for number in range(count):
            name = f"CLEVR_{part}_{number:06}.png"
            pixels = write_image(home / "images" / part / name, noise(4000 + count * 100 + number, 48, 32))
            expected[split].append((pixels, number % 8))
            thing = {"shape": "cube", "3d_coords": [1.5, -2.0, 0.35], "pixel_coords": [238, 130, 10.2], "size": "small"}
            scene = {"image_index": number, "objects": [thing] * (3 + number % 8), "image_filename": name}
            scene |= {"relationships": {"left": [[1, 2], [], [0]]}, "directions": {"left": [-0.6, 0.7, 0]}}
            scenes.append(scene)
        (home / "scenes").mkdir(exist_ok=True)
        content = {"info": {"version": "1.0", "split": part}, "scenes": scenes[::-1]}
        (home / "scenes" / f"CLEVR_{part}_scenes.json").write_text(json.dumps(content))
    return expected


def make_aircraft(
    root: Path, lists: str = "fgvc_aircraft", images: str = "fgvc_aircraft/images", counts: dict[str, int] = COUNTS
) -> Expected:
    """root/LISTS/variants.txt and images_variant_PART.txt, and root/IMAGES/NUMBER.jpg; CLASS in IMAGES is the label."""
    variants = ("707-320", "Boeing 717", "F-16A/B")
    expected: Expected = {part: [] for part in counts}
    lines: dict[str, list[str]] = {part: [] for part in counts}
    for part, count in counts.items():
        for label in [*range(len(variants))] * count:
            number = sum(map(len, expected.values()))
            path = root / images.replace("CLASS", str(label)) / f"{number:07}.jpg"
            expected[part].append((write_image(path, noise(6000 + number)), label))
            lines[part].append(f"{number:07} {variants[label]}\n")
    (root / lists).mkdir(parents=True, exist_ok=True)
    (root / lists / "variants.txt").write_text("\n".join(variants) + "\n")
    for part in counts:
        (root / lists / f"images_variant_{part}.txt").write_text("".join(lines[part]))
    return expected


def make_corruptions(
    folder: Path,
    names: tuple[str, ...] = ("frost", "brightness"),
    *,
    num_classes: int = 3,
    each: int = 6,
    side: int = 8,
) -> dict[str, list[list[tuple[np.ndarray, int]]]]:
    """FOLDER/labels.npy and a (5 * each, side, side, 3) CORRUPTION.npy each; returns by name a list by severity.

    `each` is the images of a severity, at least `num_classes`.
    """
    folder.mkdir(parents=True)
    labels = [(i + 1) % num_classes for i in range(each)]
    np.save(folder / "labels.npy", np.array(labels * 5))
    expected = {}
    for number, name in enumerate(names):
        images = np.stack([noise(5000 + number * 100 + i, side, side) for i in range(5 * each)])
        np.save(folder / f"{name}.npy", images)
        expected[name] = [list(zip(part, labels, strict=True)) for part in np.split(images, 5)]
    return expected


def make_abide(root: Path, patients: int = 30) -> dict[str, tuple[np.ndarray, int]]:
    """root/abide with both files; returns by FILE_ID the vector of 19,900 correlations and DX_GROUP (every third 1).

    The files hold more, as the real ones do: a patient without cc200, table rows without a patient.
    """
    home = root / "abide"
    home.mkdir(parents=True)
    content = {}
    for number in range(patients):
        vector = np.random.default_rng(number).uniform(-1.5, 2.5, 19900)
        content[f"Site_{(number * 37) % 997:07}"] = (vector, 1 if number % 3 == 0 else 2)
    with h5py.File(home / "abide.hdf5", "w") as file:
        for patient, (vector, _) in content.items():
            file[f"patients/{patient}/cc200"] = vector
        file["patients/Site_9999999/aal"] = np.zeros(3)
    with (home / "Phenotypic_V1_0b_preprocessed1.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["", "SUB_ID", "FILE_ID", "DX_GROUP", "AGE_AT_SCAN"])
        table.writerow([0, 1, "no_filename", 1, 20])
        for number, (patient, (_, group)) in enumerate(content.items()):
            table.writerow([number + 1, 50000 + number, patient, group, 12.5])
    return content


def make_attributes(root: Path, name: str = "small", classes: tuple[str, ...] = ("ant", "bee", "cow", "doe")) -> Path:
    """AttrVR's two files for a data set, and three of DVP's causes: 25 sentences for each class, made of its name."""
    root.mkdir(parents=True, exist_ok=True)
    for bank in ("descriptive", "distinctive", "cause1", "cause2", "cause3"):
        sentences = {each: [f"Feature {i} of the {each}, {bank} enough." for i in range(25)] for each in classes}
        (root / f"{name}_{bank}.json").write_text(json.dumps(sentences))
    return root
