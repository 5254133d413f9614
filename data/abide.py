"""ABIDE: correlations of resting-state fMRI as images, two classes."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.sources import ImageArrays
from data.splits import Splits, whole
from errors import UserError, prepare_command

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 200


def lower_triangle() -> "Tensor":
    """(200,200) float32, 1 on the diagonal and below: an ABIDE image is empty there, and the prompt may learn there."""
    import torch

    return torch.tril(torch.ones(SIDE, SIDE))


@dataclass(frozen=True)
class Abide:
    """`data_path/abide` with two files of the acerta-abide scripts.

    Each patient's 19,900 correlations are min-max normalised to [0,1] and laid row by row into the strict upper
    triangle of a 200 x 200 image. A stratified 10 % of the patients (seed 1) are the test split.
    """

    values: str = "abide.hdf5"
    table: str = "Phenotypic_V1_0b_preprocessed1.csv"

    def read(self, data_path: Path, name: str) -> Splits:
        home = data_path / name
        for file in (home / self.values, home / self.table):
            if not file.is_file():
                raise UserError(
                    f"--dataset {name}: {self.values} and {self.table} are read from {home}.",
                    f"There is no {file}.",
                    f"This command tells how to get them: {prepare_command(name)}",
                )
        from sklearn.model_selection import train_test_split  # slow to import; no other data set of files needs it

        try:
            images, labels = self._patients(home)
            train, test = train_test_split(np.arange(len(labels)), test_size=0.1, random_state=1, stratify=labels)
            everyone = whole(ImageArrays(images), labels)
        except Exception as error:  # HDF5 and csv raise many kinds for a damaged file
            raise UserError(
                f"--dataset {name}: {self.values} holds patients/FILE_ID/cc200, a vector of {SIDE * (SIDE - 1) // 2}"
                f" values each, and {self.table} the columns FILE_ID and DX_GROUP.",
                f"{home}: {error}",
                "Make the files again with the acerta-abide scripts.",
            ) from None
        return Splits(name, ("non ASD", "ASD"), everyone.take(train), None, everyone.take(test))

    def _patients(self, home: Path) -> tuple[np.ndarray, list[int]]:
        """(N,200,200) float32 in [0,1] and N labels, patients in the order of their FILE_ID."""
        import h5py

        with (home / self.table).open(newline="", encoding="utf-8-sig") as table:  # a spreadsheet saves a mark
            diagnosis = {row["FILE_ID"]: 2 - int(row["DX_GROUP"]) for row in csv.DictReader(table)}
        upper = np.triu_indices(SIDE, k=1)
        with h5py.File(home / self.values, "r", locking=False) as file:
            patients = [patient for patient in sorted(file["patients"]) if "cc200" in file["patients"][patient]]
            images = np.zeros((len(patients), SIDE, SIDE), np.float32)
            for image, patient in zip(images, patients, strict=True):
                vector = np.asarray(file["patients"][patient]["cc200"], np.float32)
                if vector.shape != upper[0].shape:
                    raise ValueError(f"the vector of {patient} has the shape {vector.shape}")
                spread = vector.max() - vector.min()
                if not np.isfinite(spread):
                    raise ValueError(f"the vector of {patient} holds values that are no correlations")
                image[upper] = (vector - vector.min()) / max(spread, 1e-12)
        if unknown := [patient for patient in patients if patient not in diagnosis]:
            raise ValueError(f"{self.table} lacks {', '.join(unknown)}")
        return images, [diagnosis[patient] for patient in patients]
