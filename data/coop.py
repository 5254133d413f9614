"""Data sets whose splits CoOp publishes as one JSON file, in three layouts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from data.files import PassedOver, find_parts, leads_to_leftover
from data.lmdb_images import LmdbImages
from data.search import find_images
from data.sources import ImageFiles
from data.spelling import on_disk, tell_spellings
from data.splits import PARTS, Split, Splits, whole
from errors import UserError, in_short, prepare_command


@dataclass(frozen=True)
class CoOp:
    """A split file and images below data_path.

    Three layouts are read: CoOp's own (`folder`/`split_file` and `folder`/`images`), that of the original ILM-VP
    repository (NAME/split.json and NAME/train.lmdb, val.lmdb, test.lmdb), and NAME/split.json with NAME/images. In the
    first and the last, other folders may stand around the images.

    Args:
        folder: CoOp's name of the data set's folder.
        images: the folder in `folder` that the split's paths are relative to.
        split_file: CoOp's name of the split file.
        torchvision_images: the folder of torchvision's download of the same images, in data_path or data_path/NAME.
        unique_names: copies are in use whose folders have other names; an image's name tells which one it is.
    """

    folder: str
    images: str
    split_file: str
    torchvision_images: str | None = None
    unique_names: bool = False

    def read(self, data_path: Path, name: str) -> Splits:
        homes = list(dict.fromkeys([data_path / self.folder, data_path / name]))
        candidates = [home / file for home in homes for file in (self.split_file, "split.json")]
        split_file = next((file for file in candidates if file.is_file()), None)
        if split_file is None:
            raise UserError(
                f"--dataset {name}: its split file and images are read from data_path ({data_path}).",
                f"There is none of {', '.join(str(file.relative_to(data_path)) for file in candidates)}."
                + ("" if data_path.is_dir() else " data_path itself is not there."),
                f"If it lies elsewhere set VP_DATA_PATH, or data_path in cfg.py. If not, type: {prepare_command(name)}",
            )
        roots = [home / folder for home in homes for folder in (self.images, "images", "")]
        if self.torchvision_images:
            roots += [data_path / self.torchvision_images, data_path / name / self.torchvision_images]
        try:
            return read_split_file(split_file, roots, name, unique_names=self.unique_names)
        except UserError as error:
            again = f"To fetch what is missing (the split file, too, if you delete it), type: {prepare_command(name)}"
            raise UserError(error.asked, error.found, f"{error.next_step} {again}") from None


def read_split_file(split_file: Path, image_roots: Sequence[Path], name: str, *, unique_names: bool = False) -> Splits:
    """A split file with its images. These are in LMDBs beside it, or are files below the roots (`data.search`).

    Raises:
        UserError: the split file is malformed, all of its images are missing, or the LMDBs hold other labels.
    """
    entries, class_names = load_split_json(split_file, image_roots)
    lmdbs = {part: split_file.parent / f"{part}.lmdb" for part in PARTS}
    if lmdbs["train"].exists():
        splits = {
            part: _from_lmdb(lmdbs[part], entries[part], split_file, class_names)
            for part in PARTS
            if entries[part] or lmdbs[part].exists()
        }
    else:
        kept = {part: _without_leftovers(entries[part], f"{name} {part}") for part in PARTS if entries[part]}
        paths = [path for rows in kept.values() for path, _ in rows]
        root, files = find_images([*image_roots, split_file.parent], paths, name, unique_names=unique_names)
        splits = {
            part: whole(ImageFiles(root, [files[path] for path, _ in rows]), [label for _, label in rows])
            for part, rows in kept.items()
        }
    return Splits(name, class_names, splits["train"], splits.get("val"), splits["test"])


def _from_lmdb(path: Path, rows: list[tuple[str, int]], split_file: Path, class_names: Sequence[str]) -> Split:
    """The images of an LMDB. Raises UserError if its labels are not those of the split file, whose names they get."""
    images = LmdbImages(path)
    listed = [label for _, label in rows]
    if images.labels != listed:
        found = f"{split_file.name} lists {len(listed)} images, {path.name} holds {len(images.labels)}."
        if len(images.labels) == len(listed):
            other = [number for number, label in enumerate(listed) if label != images.labels[number]]
            label = listed[other[0]]
            found = (
                f"{len(other)} of {len(listed)} labels differ. Entry {other[0]} is label {label} ({class_names[label]})"
                f" in {split_file.name}, and label {images.labels[other[0]]} in {path.name}."
            )
        raise UserError(
            f"{path}: its labels, in order, are those of {split_file}, where the names of the classes come from.",
            found,
            f"Copy {split_file.name} and the LMDBs from one source; to read image files, move the LMDBs elsewhere.",
        )
    return whole(images, images.labels)


def load_split_json(
    split_file: Path, image_roots: Sequence[Path]
) -> tuple[dict[str, list[tuple[str, int]]], tuple[str, ...]]:
    """Reads {"train": [[path, label, class name], ...], "val": [...], "test": [...]}; "val" may be "valid".

    The paths are relative to the images' folder, or lie below one of `image_roots`.

    Returns:
        (path, label) lists by part, with paths as the disk has them (`data.spelling`), and the class names by label.

    Raises:
        UserError: it has another structure, no training or test images, gaps in its labels, or two names for one label.
    """
    try:
        content = json.loads(split_file.read_bytes())  # UTF-8 or UTF-16, with or without a mark
    except (ValueError, RecursionError) as error:
        raise _malformed(split_file, f"it is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise _malformed(split_file, f"it holds a {type(content).__name__}")
    names: dict[int, str] = {}
    written: dict[str, str] = {}
    entries: dict[str, list[tuple[str, int]]] = {}
    found = find_parts(content, str(split_file))
    if others := [json.dumps(key) for key in content if key not in found.values()]:
        print(f"{split_file.name}: not read: {in_short(others)}", flush=True)
    for part in PARTS:
        rows = content.get(found.get(part), [])
        if not isinstance(rows, list):
            raise _malformed(split_file, f'its "{part}" is no list')
        for number, row in enumerate(rows):
            if not isinstance(row, list) or [type(value) for value in row] != [str, int, str]:
                raise _malformed(split_file, f'entry {number} of its "{part}" is {json.dumps(row)[:100]}')
            if (path := on_disk(row[0], image_roots)) is None:
                outside = f"lies outside of the images' folder ({image_roots[0]})"
                raise _malformed(split_file, f'entry {number} of its "{part}" {outside}: {json.dumps(row)[:100]}')
            class_name = normalize("NFC", row[2])
            if names.setdefault(row[1], class_name) != class_name:
                both = f"{names[row[1]][:100]} and {class_name[:100]}"
                raise _malformed(split_file, f"label {row[1]} is called both {both}")
            written[row[0]] = path
        entries[part] = [(written[path], label) for path, label, _ in rows]
    tell_spellings(written, str(split_file))
    for part in ("train", "test"):
        if not entries[part]:
            raise _malformed(split_file, f'its "{part}" list is missing or empty')
    if sorted(names) != list(range(len(names))):
        raise _malformed(split_file, f"its labels have gaps: {len(names)} of them, from {min(names)} to {max(names)}")
    return entries, tuple(names[label] for label in sorted(names))


def _without_leftovers(rows: list[tuple[str, int]], where: str) -> list[tuple[str, int]]:
    """The (path, label) pairs without paths such as `cat/._1.jpg`. How many there were is told in a line."""
    passed = PassedOver(where)
    for path, _ in rows:
        if leads_to_leftover(path):
            passed.leftover(path)
    passed.tell()
    return [(path, label) for path, label in rows if not leads_to_leftover(path)]


def _malformed(split_file: Path, found: str) -> UserError:
    return UserError(
        f'{split_file}: expected {{"train": [[path, label, class name], ...], "val": [...], "test": [...]}}'
        " with labels from 0 without gaps.",
        f"Found: {found}.",
        "Correct the file.",
    )
