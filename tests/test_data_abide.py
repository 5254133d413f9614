"""ABIDE: correlations as images, labels, the test split and the prompt's mask inside the image."""

import csv

import h5py
import numpy as np
import pytest
from make_data import make_abide
from sklearn.model_selection import StratifiedShuffleSplit

from data.catalog import DATASETS, find_dataset
from errors import UserError


def image_of(vector: np.ndarray) -> np.ndarray:
    """Row by row into the strict upper triangle, the slow way."""
    low, high = min(vector), max(vector)
    image, values = np.zeros((200, 200)), iter(vector)
    for row in range(200):
        for column in range(row + 1, 200):
            image[row, column] = (next(values) - low) / (high - low)
    assert next(values, None) is None  # all 19,900 are placed
    return image


def test_images_labels_and_split(data_path):
    content = make_abide(data_path)  # 30 patients, 10 of them ASD
    splits = find_dataset("abide").read()
    assert splits.class_names == ("non asd", "asd")
    assert splits.sizes == {"train": 27, "val": 0, "test": 3} and splits.val is None
    assert splits.test.labels.tolist().count(1) == 1 and splits.train.labels.tolist().count(1) == 9

    patients = sorted(content)
    images = [image_of(content[patient][0]) for patient in patients]
    labels = [{1: 1, 2: 0}[content[patient][1]] for patient in patients]  # DX_GROUP 1 is ASD
    seen = []
    for part in (splits.train, splits.test):
        for position in range(len(part)):
            image = part.open(position)
            assert image.mode == "F" and image.size == (200, 200)
            distances = [np.abs(np.asarray(image) - other).max() for other in images]
            patient = int(np.argmin(distances))
            assert distances[patient] < 1e-6 and part.labels[position] == labels[patient]
            seen.append(patient)
    assert sorted(seen) == list(range(30))
    ((_, test),) = StratifiedShuffleSplit(1, test_size=0.1, random_state=1).split(np.zeros(30), labels)
    assert seen[27:] == test.tolist()


def test_placement_by_hand(data_path):
    """The first row's 199 values, then the second row's 198, ... and the last value alone in row 198."""
    make_abide(data_path)
    with h5py.File(data_path / "abide/abide.hdf5", "a") as file:
        for patient in file["patients"].values():
            if "cc200" in patient:
                patient["cc200"][...] = np.arange(19900)
    image = np.asarray(find_dataset("abide").read().train.open(0))
    places = {(0, 1): 0, (0, 199): 198, (1, 2): 199, (1, 199): 396, (2, 3): 397, (198, 199): 19899}
    assert {place: round(float(image[place]) * 19899) for place in places} == places
    assert not np.tril(image).any()


def test_equal_correlations(data_path):
    make_abide(data_path)
    with h5py.File(data_path / "abide/abide.hdf5", "a") as file:
        for patient in file["patients"].values():
            if "cc200" in patient:
                patient["cc200"][...] = 0.25
    assert not np.asarray(find_dataset("abide").read().train.open(0)).any()


def test_table_saved_by_a_spreadsheet(data_path):
    """It begins with a byte order mark, here before the column that is needed."""
    make_abide(data_path)
    expected = find_dataset("abide").read().train.labels
    file = data_path / "abide/Phenotypic_V1_0b_preprocessed1.csv"
    with file.open(newline="") as table:
        rows = [row[2:] for row in csv.reader(table)]
    with file.open("w", newline="", encoding="utf-8-sig") as table:
        csv.writer(table).writerows(rows)
    assert file.read_bytes().startswith(b"\xef\xbb\xbfFILE_ID")
    assert find_dataset("abide").read().train.labels.tolist() == expected.tolist()


def test_inner_mask():
    mask = find_dataset("abide").inner_mask()
    for row in range(200):
        assert mask[row].tolist() == [1.0] * (row + 1) + [0.0] * (199 - row)
    assert [row.name for row in DATASETS if row.inner_mask] == ["abide"]


def no_table(home):
    (home / "Phenotypic_V1_0b_preprocessed1.csv").unlink()


def no_values(home):
    (home / "abide.hdf5").unlink()


def values_are_text(home):
    (home / "abide.hdf5").write_text("not HDF5")


def short_vector(home):
    with h5py.File(home / "abide.hdf5", "a") as file:
        file["patients/Site_0000005/cc200"] = np.zeros(19899)


def no_patients(home):
    with h5py.File(home / "abide.hdf5", "w") as file:
        file["others"] = np.zeros(3)


def without_column(home):
    file = home / "Phenotypic_V1_0b_preprocessed1.csv"
    file.write_text(file.read_text().replace("DX_GROUP", "GROUP"))


def unknown_patient(home):
    with h5py.File(home / "abide.hdf5", "a") as file:
        file["patients/Site_0000005/cc200"] = np.arange(19900.0)


def damaged_group(home):
    file = home / "Phenotypic_V1_0b_preprocessed1.csv"
    file.write_text(file.read_text().replace(",1,12.5", ",ill,12.5"))


def no_numbers(home):
    with h5py.File(home / "abide.hdf5", "a") as file:
        file["patients/Site_0000037/cc200"][7] = np.nan


def short_row(home):
    with (home / "Phenotypic_V1_0b_preprocessed1.csv").open("a") as table:
        table.write("31,50031,Site_0000001\n")


def huge_field(home):
    with (home / "Phenotypic_V1_0b_preprocessed1.csv").open("a") as table:
        table.write("x" * 200_000)


def huge_group(home):
    file = home / "Phenotypic_V1_0b_preprocessed1.csv"
    file.write_text(file.read_text().replace(",2,12.5", f",{10**30},12.5"))


def damaged_tree(home):
    file = home / "abide.hdf5"
    file.write_bytes(file.read_bytes().replace(b"SNOD", b"SNOB"))


def one_ill_patient(home):
    file = home / "Phenotypic_V1_0b_preprocessed1.csv"
    with file.open(newline="") as table:
        rows = list(csv.reader(table))
    for row in rows[3:]:
        row[3] = "2"
    with file.open("w", newline="") as table:
        csv.writer(table).writerows(rows)


@pytest.mark.parametrize(
    "mistake, words",
    [
        (no_table, ["There is no", "Phenotypic_V1_0b_preprocessed1.csv", "prepare_data.py abide"]),
        (no_values, ["There is no", "abide.hdf5", "prepare_data.py abide"]),
        (values_are_text, ["patients/FILE_ID/cc200", "signature"]),
        (short_vector, ["Site_0000005", "(19899,)"]),
        (no_patients, ["patients"]),
        (without_column, ["DX_GROUP"]),
        (unknown_patient, ["Site_0000005"]),
        (damaged_group, ["DX_GROUP", "'ill'"]),
        (one_ill_patient, ["abide"]),
        (no_numbers, ["Site_0000037", "no correlations"]),
        (short_row, ["NoneType"]),
        (huge_field, ["field limit"]),
        (huge_group, ["too large"]),
        (damaged_tree, ["symbol table"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_mistakes(data_path, mistake, words):
    make_abide(data_path)
    mistake(data_path / "abide")
    with pytest.raises(UserError) as error:
        find_dataset("abide").read()
    for word in ["--dataset abide", *words]:
        assert word in str(error.value)
