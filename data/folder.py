"""A user's own folder: a split file with images, or train/ [val/] test/ with a folder for each class."""

from dataclasses import dataclass
from pathlib import Path

from data.coop import read_split_file
from data.splits import PARTS, ImageFiles, Split, Splits, whole
from errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as of torchvision's ImageFolder


@dataclass(frozen=True)
class Folder:
    """`data_path/NAME` with `split.json` (or `split_*.json`) and its images, or with train/ and test/ (and val/).

    Class folders are sorted by name; labels are their positions. Files that do not end like an image are passed over.
    """

    def read(self, data_path: Path, name: str) -> Splits:
        home = data_path / name
        if split_file := find_split_file(home, name):
            return read_split_file(split_file, [home / "images", home], name)
        if not (home / "train").is_dir() or not (home / "test").is_dir():
            raise UserError(
                f"--dataset {name}: {home} should hold split.json and images/, or train/ and test/ (and val/).",
                f"It holds {', '.join(sorted(path.name for path in home.iterdir())[:10]) or 'nothing'}.",
                "Lay the images out as train/CLASS/*.jpg and test/CLASS/*.jpg.",
            )
        folders = {part: home / part for part in PARTS if (home / part).is_dir()}
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


def find_classes(folder: Path) -> tuple[str, ...]:
    """The names of the folders in a folder, sorted, so that labels do not depend on the file system."""
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))


def read_classes(folder: Path, class_names: tuple[str, ...], name: str) -> Split:
    """The images of the class folders, class by class, sorted by path. Raises UserError if there are other folders."""
    if others := sorted(set(find_classes(folder)) - set(class_names)):
        raise UserError(
            f"--dataset {name}: {folder} has the classes of its train folder.",
            f"Not among them: {', '.join(others)}.",
            "Rename or remove these folders, or add them to train/.",
        )
    paths, labels = [], []
    for label, class_name in enumerate(class_names):
        found = sorted(p for p in (folder / class_name).rglob("*") if p.suffix.lower() in ENDINGS)
        paths += [str(path.relative_to(folder)) for path in found]
        labels += [label] * len(found)
    return whole(ImageFiles(folder, paths), labels)
