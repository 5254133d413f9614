"""Data sets whose splits CoOp publishes as one JSON file, in three layouts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.files import PassedOver, find_parts, leads_to_leftover
from data.lmdb_images import LmdbImages
from data.search import find_images
from data.splits import PARTS, ImageFiles, Splits, is_below, whole
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
        UserError: the split file is malformed, or all of its images are missing.
    """
    entries, class_names = load_split_json(split_file)
    if (split_file.parent / "train.lmdb").is_file():
        sources = {part: LmdbImages(split_file.parent / f"{part}.lmdb") for part in PARTS if entries[part]}
        splits = {part: whole(source, source.labels) for part, source in sources.items()}
    else:
        kept = {part: _without_leftovers(entries[part], f"{name} {part}") for part in PARTS if entries[part]}
        paths = [path for rows in kept.values() for path, _ in rows]
        root, files = find_images([*image_roots, split_file.parent], paths, name, unique_names=unique_names)
        splits = {
            part: whole(ImageFiles(root, [files[path] for path, _ in rows]), [label for _, label in rows])
            for part, rows in kept.items()
        }
    return Splits(name, class_names, splits["train"], splits.get("val"), splits["test"])


def load_split_json(split_file: Path) -> tuple[dict[str, list[tuple[str, int]]], tuple[str, ...]]:
    """Reads {"train": [[relative path, label, class name], ...], "val": [...], "test": [...]}; "val" may be "valid".

    Returns:
        (path, label) lists by part, and the class names by label.

    Raises:
        UserError: it has another structure, no training or test images, gaps in its labels, or two names for one label.
    """
    try:
        content = json.loads(split_file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _malformed(split_file, f"it is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise _malformed(split_file, f"it holds a {type(content).__name__}")
    names: dict[int, str] = {}
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
            if not is_below(row[0]):
                raise _malformed(split_file, f'entry {number} of its "{part}" lies outside: {json.dumps(row)[:100]}')
            if names.setdefault(row[1], row[2]) != row[2]:
                both = f"{names[row[1]][:100]} and {row[2][:100]}"
                raise _malformed(split_file, f"label {row[1]} is called both {both}")
        entries[part] = [(path, label) for path, label, _ in rows]
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
