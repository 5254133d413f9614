"""FGVC-Aircraft: 100 variants of aeroplanes, in the archive of its authors, whose lists are its splits."""

from dataclasses import dataclass
from pathlib import Path

from data.search import find_images
from data.sources import ImageFiles, is_below
from data.splits import PARTS, Splits, whole
from errors import UserError, prepare_command


@dataclass(frozen=True)
class Aircraft:
    """variants.txt, images_variant_train.txt, _val.txt and _test.txt, and the images, below `data_path/NAME`.

    Other folders may stand around them, as in CoOp's layout (none), the archive's and torchvision's (FOLDER/data).
    torchvision's may also be in data_path. A class's label is its line in variants.txt.
    """

    folder: str = "fgvc-aircraft-2013b"
    names: str = "variants.txt"
    part: str = "images_variant_{}.txt"

    def read(self, data_path: Path, name: str) -> Splits:
        homes = [data_path / name, data_path / self.folder]
        found = next((file for home in homes for file in sorted(home.rglob(self.names)) if file.is_file()), None)
        if found is None:
            raise UserError(
                f"--dataset {name}: {self.names} and its images are read from data_path ({data_path}).",
                f"There is no {self.names} below {' or '.join(map(str, homes))}."
                + ("" if data_path.is_dir() else " data_path itself is not there."),
                f"If it lies elsewhere set VP_DATA_PATH, or data_path in cfg.py. If not, type: {prepare_command(name)}",
            )
        class_names = tuple(_lines(found, name))
        labels = {class_name: label for label, class_name in enumerate(class_names)}
        lists = {part: self._part(found.parent / self.part.format(part), labels, name) for part in PARTS}
        paths = [path for part in PARTS for path, _ in lists[part]]
        root, files = find_images([found.parent / "images", found.parent, *homes], paths, name)
        splits = {
            part: whole(ImageFiles(root, [files[path] for path, _ in rows]), [label for _, label in rows])
            for part, rows in lists.items()
        }
        return Splits(name, class_names, **splits)

    def _part(self, file: Path, labels: dict[str, int], name: str) -> list[tuple[str, int]]:
        """The path and the label of each line, which is a number of seven digits and the name of a variant."""
        rows = []
        for line in _lines(file, name):
            number, _, class_name = line.partition(" ")
            if class_name not in labels or not is_below(number):
                asked = f"{file}: each line is an image's number and a variant of {self.names}."
                raise UserError(asked, f"Found: {line[:100]}", f"Get it again: {prepare_command(name)}")
            rows.append((f"{number}.jpg", labels[class_name]))
        return rows


def _lines(file: Path, name: str) -> list[str]:
    """The lines of a list, without those that are empty."""
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        asked = f"--dataset {name}: {file} lists the variants or the images of a split."
        raise UserError(asked, f"It cannot be read: {error}", f"Get it again: {prepare_command(name)}") from None
