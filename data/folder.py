"""A user's own folder: a split file with images, or train/ [val/] test/ with a folder for each class."""

from dataclasses import dataclass
from pathlib import Path

from data.coop import read_split_file
from data.files import PART_NAMES, PassedOver, find_parts, folders_in, images_below
from data.sources import ImageFiles
from data.splits import Split, Splits, whole
from errors import UserError, printable


@dataclass(frozen=True)
class Folder:
    """`data_path/NAME` with `split.json` (or `split_*.json`) and its images, or with train/ and test/ (and val/).

    `data.files` tells which files and folders are read. Class folders are sorted by name; labels are their positions.
    """

    def read(self, data_path: Path, name: str) -> Splits:
        home = data_path / name
        if split_file := find_split_file(home, name):
            return read_split_file(split_file, [home / "images", home], name)
        folders = find_part_folders(home, name)
        class_names = find_classes(folders["train"])
        splits = {part: read_classes(folder, class_names, name) for part, folder in folders.items()}
        return Splits(name, class_names, splits["train"], splits.get("val"), splits["test"])


def find_split_file(home: Path, name: str) -> Path | None:
    """The only split*.json in a folder, or None. Raises UserError if there are several."""
    split_files = sorted(home.glob("split*.json"))
    if len(split_files) > 1:
        raise UserError(
            f"--dataset {name}: one split file is expected in {home}.",
            f"Found {', '.join(file.name for file in split_files)}.",
            "Move all but one of them elsewhere.",
        )
    return split_files[0] if split_files else None


def find_part_folders(home: Path, name: str) -> dict[str, Path]:
    """train/, test/ and, if there is one, val/ (or valid/ or validation/), by part. Other folders are named.

    Raises:
        UserError: train/ or test/ is missing, there are two folders for validation, or `folders_in` raises it.
    """
    there = folders_in(home, PassedOver(name))
    found = find_parts(there, f"--dataset {name}")
    if not found.keys() >= {"train", "test"}:
        raise UserError(
            f"--dataset {name}: {home} should hold split.json and images/, or train/ and test/ (and val/).",
            f"It holds {', '.join(sorted(path.name for path in home.iterdir())[:10]) or 'nothing'}.",
            "Lay the images out as train/CLASS/*.jpg and test/CLASS/*.jpg.",
        )
    if others := [folder for folder in there if folder not in found.values()]:
        print(printable(f"{name}: not read: {', '.join(others)} (beside {', '.join(found.values())})"), flush=True)
    return {part: home / found[part] for part in PART_NAMES if part in found}


def find_classes(folder: Path) -> tuple[str, ...]:
    """The names of the folders in a folder, sorted, so that labels do not depend on the file system."""
    return folders_in(folder, PassedOver(str(folder)))


def read_classes(folder: Path, class_names: tuple[str, ...], name: str) -> Split:
    """The images of the class folders, class by class, sorted by path. What is passed over is told in one line.

    Raises:
        UserError: there are other folders, one cannot be read, or a link leads nowhere.
    """
    passed = PassedOver(f"{name} {folder.name}")
    there = folders_in(folder, passed)
    if others := sorted(set(there) - set(class_names)):
        raise UserError(
            f"--dataset {name}: {folder} has the classes of its train folder.",
            f"Not among them: {', '.join(others)}.",
            "Rename or remove these folders, or add them to train/.",
        )
    paths, labels = [], []
    for label, class_name in enumerate(class_names):
        found = images_below(folder / class_name, passed) if class_name in there else []
        paths += [f"{class_name}/{path}" for path in found]
        labels += [label] * len(found)
    passed.tell()
    return whole(ImageFiles(folder, paths), labels)
