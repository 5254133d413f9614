"""NWPU-RESISC45: aerial photographs of 45 kinds of scenes, one folder for each class, as the archive unpacks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.coop import read_split_file
from data.files import files_below, leads_to_leftover
from data.folder import find_classes, find_split_file, read_classes
from data.splits import Splits
from errors import UserError, prepare_command


@dataclass(frozen=True)
class Resisc45:
    """Class folders in `data_path/NAME/FOLDER`, `data_path/NAME` or `data_path/FOLDER`, without a split of their own.
    Other folders may stand between `data_path/NAME` and the class folders.

    A split file in `data_path/NAME` is used if there is one. No split is standard, so the reader draws one otherwise:
    60 % of each class for training, 20 % for validation and 20 % for test. It draws from the sorted paths with a seed
    of its own. So the same images are test images on every machine and for every --seed.
    """

    folder: str = "NWPU-RESISC45"
    seed: int = 0

    def read(self, data_path: Path, name: str) -> Splits:
        roots = [data_path / name / self.folder, data_path / name, data_path / self.folder]
        if split_file := find_split_file(data_path / name, name):
            return read_split_file(split_file, [*roots, data_path / name / "images"], name)
        root = next((root for root in roots if has_classes(root)), None) or _only_root(data_path / name, name)
        if root is None:
            raise UserError(
                f"--dataset {name}: images such as airplane/airplane_001.jpg are read from data_path ({data_path}).",
                f"There is no CLASS/*.jpg in {', '.join(map(str, roots))}."
                + ("" if data_path.is_dir() else " data_path itself is not there."),
                "If they lie elsewhere set VP_DATA_PATH, or data_path in cfg.py. If not, this command"
                f" tells how to get them: {prepare_command(name)}",
            )
        class_names = find_classes(root)
        everything = read_classes(root, class_names, name)
        parts = (everything.take(positions) for positions in self._parts(everything.labels))
        return Splits(name, class_names, *parts)

    def _parts(self, labels: np.ndarray) -> list[np.ndarray]:
        """The positions of the training, validation and test images, in ascending order."""
        # NumPy may change the numbers that default_rng draws, but not those of RandomState.
        generator = np.random.RandomState(self.seed)
        drawn = [generator.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
        cut = [np.split(members, [round(0.6 * len(members)), round(0.8 * len(members))]) for members in drawn]
        return [np.sort(np.concatenate(part)) for part in zip(*cut, strict=True)]


def has_classes(root: Path) -> bool:
    return any(not leads_to_leftover(str(file.relative_to(root))) for file in root.glob("*/*.jpg"))


def _only_root(home: Path, name: str) -> Path | None:
    """The folder below `home` that holds class folders, or None. Raises UserError if there are several."""
    files = files_below(home) if home.is_dir() else ()
    roots = sorted({home.joinpath(*folders[:-1]) for *folders, name in files if folders and name.endswith(".jpg")})
    if len(roots) > 1:
        raise UserError(
            f"--dataset {name}: the 45 class folders are expected in one folder below {home}.",
            f"Class folders are in {', '.join(map(str, roots[:3]))}.",
            "Move all images of a class into one folder.",
        )
    return roots[0] if roots else None
