"""Images of no data set: files and folders that somebody names, and what their labels are."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.dataset import refined
from data.files import ENDINGS, PassedOver, images_below
from errors import UserError, in_short, printable

NO_LABEL = -1


def find_images(given: Iterable[Path]) -> dict[Path, Path]:
    """The named files, and all images below the named folders as `data.files` finds them. Each folder's line tells what
    was passed over.

    Returns:
        Each image with its outermost folder: the folder that was named, or that the named file lies in.

    Raises:
        UserError: there is no image below a folder, or a folder cannot be read.
    """
    found: dict[Path, Path] = {}
    for path in given:
        if not path.is_dir():
            found.setdefault(path, path.parent)
            continue
        passed = PassedOver(str(path))
        images = [path / image for image in images_below(path, passed)]
        passed.tell()
        if not images:
            next_step = f"Name a folder with images; their names end with {', '.join(sorted(ENDINGS))}."
            raise UserError(f"{path}: images are searched in this folder.", "There is none.", next_step)
        found |= dict.fromkeys(images, path)
    return found


def read_labels(where: str, found: dict[Path, Path], class_names: Sequence[str]) -> list[int]:
    """The label of each image that `find_images` found; NO_LABEL where there is none. Prints how many have none.

    Args:
        where: `folders`, or the path of a CSV.

    Raises:
        UserError: no image has a label, or the CSV is not as `labels_by_file` needs it.
    """
    by_folder = where == "folders"
    labels = labels_by_folder(found, class_names) if by_folder else labels_by_file(Path(where), found, class_names)
    missing = [file for file, label in zip(found, labels, strict=True) if label == NO_LABEL]
    if len(missing) == len(labels):
        lacks = "No folder above an image has a class's name" if by_folder else "It names none of these images"
        raise UserError(
            f"--labels {where}: the images' classes are needed.",
            f"{lacks}. The first image is {missing[0]}. The classes are {in_short(class_names, 10)}.",
            "Type --labels folders, or --labels FILE with the columns path and class, or leave out --labels.",
        )
    if missing:
        some = printable(in_short([str(file) for file in missing], 3))
        print(f"{len(missing)} of {len(labels)} images have no label and do not count: {some}")
    return labels


def labels_by_folder(found: dict[Path, Path], class_names: Sequence[str]) -> list[int]:
    """Each image's label: the nearest folder above it with a class's name, up to its outermost; else NO_LABEL."""
    known = _labels(class_names)

    def label(file: Path, outermost: Path) -> int:
        names = (outermost.resolve().name, *file.parent.relative_to(outermost).parts)
        return next((known[refined(name)] for name in reversed(names) if refined(name) in known), NO_LABEL)

    return [label(*pair) for pair in found.items()]


def labels_by_file(table: Path, found: Iterable[Path], class_names: Sequence[str]) -> list[int]:
    """Each image's label from a CSV with the columns `path` (relative to the CSV's folder) and `class`; or NO_LABEL.

    Prints which other images the file names.

    Raises:
        UserError: the file cannot be read, lacks a column, names an unknown class, or one image with two classes.
    """
    known, labels = _labels(class_names), {}
    for line, (path, class_name) in enumerate(_rows(table), start=2):
        file = os.path.abspath(table.parent / path)
        label = known.get(refined(class_name))
        if label is None:
            asked = f"--labels {table}: the classes are those of the checkpoint."
            found_there = f"Row {line} has '{class_name}'; the checkpoint has {in_short(class_names, 10)}."
            raise UserError(asked, found_there, "Correct the row.")
        if labels.setdefault(file, label) != label:
            asked = f"--labels {table}: every image has one class."
            raise UserError(asked, f"Row {line} gives {path} a second one.", "Remove one of the two rows.")
    files = [os.path.abspath(file) for file in found]
    if others := labels.keys() - set(files):
        some = printable(in_short(sorted(others), 3))
        print(f"{len(others)} of {len(labels)} images of {table} are not among the predicted ones: {some}")
    return [labels.get(file, NO_LABEL) for file in files]


def _labels(class_names: Sequence[str]) -> dict[str, int]:
    return {refined(name): label for label, name in enumerate(class_names)}


def _rows(table: Path) -> list[tuple[str, str]]:
    """`path` and `class` of each row. A spreadsheet may have put a byte order mark before the first."""
    asked = f"--labels {table}: `folders`, or a CSV file whose first row names the columns path and class, is needed."
    next_step = "Its rows look like this: photos/1.jpg,cat"
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(asked, f"It cannot be read: {error}", next_step) from None
    if not {"path", "class"} <= set(columns):
        raise UserError(asked, f"Its first row has {', '.join(columns) or 'nothing'}.", next_step)
    return [(row["path"] or "", row["class"] or "") for row in rows]
