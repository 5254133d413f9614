"""Fewer images (--shots, --train-fraction, --val-shots) and a validation split of one's own (--val-fraction)."""

from dataclasses import replace

import numpy as np
import pytest
from make_data import make_folders

import cfg
from data.catalog import find_dataset
from data.sources import ImageArrays
from data.splits import Splits, per_class, whole
from errors import UserError

COUNTS = (1, 2, 5, 20)  # training images of classes 0 to 3


def splits_of(counts=COUNTS, val=None, test=7) -> Splits:
    """Labels interleaved; the image of position i in its split is number i."""
    labels = [label for number in range(max(counts)) for label in range(len(counts)) if number < counts[label]]
    parts = {"train": labels, "val": val and [0] * val, "test": [0] * test}
    made = {
        part: part_labels and whole(ImageArrays(np.zeros((1, 1, 1, 3))), part_labels)
        for part, part_labels in parts.items()
    }
    return Splits("made", tuple("abcdefg"[: len(counts)]), **made)


def per_label(split):
    return np.bincount(split.labels, minlength=len(COUNTS)).tolist()


def chosen(split):
    return split.indices.tolist()


@pytest.mark.parametrize(
    "shots, counts",
    [
        (1, [1, 1, 1, 1]),
        (2, [1, 2, 2, 2]),
        (4, [1, 2, 4, 4]),
        (16, [1, 2, 5, 16]),
        (20, [1, 2, 5, 20]),
        (99, [1, 2, 5, 20]),
    ],
)
def test_shots(shots, counts):
    """`shots` of each class, all of a class that has fewer."""
    splits = splits_of()
    fewer = splits.with_less_training(shots, None, seed=0)
    assert per_label(fewer.train) == counts
    assert_drawn_from(splits, fewer)


@pytest.mark.parametrize(
    "fraction, counts",
    [
        (0.01, [1, 1, 1, 1]),  # at least one a class
        (0.1, [1, 1, 1, 2]),
        (0.25, [1, 1, 1, 5]),
        (0.3, [1, 1, 2, 6]),  # 0.3 x 5 = 1.5, rounded to 2
        (0.8, [1, 2, 4, 16]),
        (1.0, [1, 2, 5, 20]),
    ],
)
def test_train_fraction(fraction, counts):
    splits = splits_of()
    fewer = splits.with_less_training(None, fraction, seed=0)
    assert per_label(fewer.train) == counts
    assert_drawn_from(splits, fewer)


def assert_drawn_from(splits, fewer):
    """Each image once, with its label, in the old order; validation and test as they were."""
    assert chosen(fewer.train) == sorted(set(chosen(fewer.train)))
    assert fewer.train.labels.tolist() == splits.train.labels[fewer.train.indices].tolist()
    assert fewer.val is splits.val and fewer.test is splits.test
    assert len(splits.train) == sum(COUNTS)  # the argument is as it was


@pytest.mark.parametrize(
    "fraction, counts",
    [
        (0.01, [0, 1, 1, 1]),  # at least one, but the only image of a class stays in train
        (0.1, [0, 1, 1, 2]),
        (0.25, [0, 1, 1, 5]),
        (0.5, [0, 1, 2, 10]),  # 0.5 x 5 = 2.5, rounded to the even 2
        (0.8, [0, 1, 4, 16]),
        (1.0, [0, 1, 4, 19]),  # at least one stays in train
    ],
)
def test_val_fraction(fraction, counts):
    splits = splits_of()
    cut = splits.with_validation(fraction, seed=0)
    assert per_label(cut.val) == counts
    assert per_label(cut.train) == [all_ - val for all_, val in zip(COUNTS, counts, strict=True)]
    assert sorted(chosen(cut.train) + chosen(cut.val)) == chosen(splits.train)  # disjoint, nothing lost
    for part in (cut.train, cut.val):
        assert part.labels.tolist() == splits.train.labels[part.indices].tolist()
    assert cut.test is splits.test


def test_val_fraction_leaves_a_validation_split_as_it_is():
    splits = splits_of(val=3)
    assert splits.with_validation(0.5, seed=0) is splits


@pytest.mark.parametrize("shots, counts", [(1, [1, 1, 1, 1]), (4, [1, 2, 4, 4]), (99, [1, 2, 5, 20])])
def test_val_shots(shots, counts):
    """`shots` of each class of the validation split, all of a class that has fewer; nothing else changes."""
    splits = splits_of()
    splits = replace(splits, val=splits.train)
    fewer = splits.with_less_validation(shots, seed=0)
    assert per_label(fewer.val) == counts
    assert chosen(fewer.val) == sorted(set(chosen(fewer.val)))
    assert fewer.val.labels.tolist() == splits.val.labels[fewer.val.indices].tolist()
    assert fewer.train is splits.train and fewer.test is splits.test


def test_val_shots_without_a_validation_split():
    with pytest.raises(UserError, match=r"--val-shots 4(.|\n)*no validation split(.|\n)*--val-fraction 0.1"):
        splits_of().with_less_validation(4, seed=0)


def test_a_class_without_validation_images():
    splits = splits_of(val=3).with_less_validation(2, seed=0)  # all three are of class 0
    assert splits.val.labels.tolist() == [0, 0]


def test_classes_with_fewer_images_than_shots_are_told(capsys):
    splits = splits_of()
    splits.with_less_training(2, None, seed=0)
    assert capsys.readouterr().out == "made train: fewer than 2 images of a (1); all of them are used\n"
    replace(splits, val=splits.train).with_less_validation(5, seed=0)
    assert capsys.readouterr().out == "made val: fewer than 5 images of a (1), b (2); all of them are used\n"
    splits.with_less_training(1, None, seed=0)
    splits.with_less_training(None, 0.1, seed=0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("nothing", [None, 0])
def test_nothing_asked_nothing_done(nothing):
    splits = splits_of()
    assert splits.with_less_training(nothing, nothing, seed=0) is splits
    assert splits.with_validation(0, seed=0) is splits
    assert splits.with_less_validation(nothing, seed=0) is splits


def test_validation_cut_off_from_single_images():
    with pytest.raises(UserError, match="has one training image a class"):
        splits_of((1, 1, 1)).with_validation(0.5, seed=0)


@pytest.mark.parametrize(
    "draw",
    [
        lambda splits, seed: splits.with_less_training(5, None, seed).train,
        lambda splits, seed: splits.with_less_training(None, 0.3, seed).train,
        lambda splits, seed: splits.with_validation(0.3, seed).val,
        lambda splits, seed: replace(splits, val=splits.train).with_less_validation(5, seed).val,
    ],
    ids=["shots", "fraction", "validation", "validation shots"],
)
def test_seeds(draw):
    splits = splits_of((10, 30, 50))
    draws = [chosen(draw(splits, seed)) for seed in range(20)]
    assert draws == [chosen(draw(splits, seed)) for seed in range(20)]
    assert len(set(map(tuple, draws))) == 20
    # any image may be drawn, not only a class's first: none of class 2's 50 is missed by 20 draws of 5 more often
    # than chance does (0.9 ** 20 = 12 % each)
    seen = {index for indices in draws for index in indices if splits.train.labels[index] == 2}
    assert len(seen) > 35


def test_per_class_is_uniform():
    """Each of 8 images is drawn in half of 2000 draws of 4 (standard deviation 22)."""
    times = np.zeros(8)
    for seed in range(2000):
        times[per_class(np.zeros(8, np.int64), lambda count: count // 2, seed)] += 1
    assert times.sum() == 8000 and np.abs(times - 1000).max() < 100


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.setattr(cfg, "data_path", tmp_path)
    make_folders(tmp_path, "mine", counts={"train": 10, "test": 2})
    return find_dataset("mine")


def test_read_cuts_validation_before_it_takes_shots(mine):
    everything = mine.read()
    splits = mine.read(shots=3, val_fraction=0.2, seed=4)
    assert splits.sizes == {"train": 9, "val": 6, "test": 6}
    assert per_label(splits.train)[:3] == [3, 3, 3] and per_label(splits.val)[:3] == [2, 2, 2]
    assert not set(chosen(splits.train)) & set(chosen(splits.val))
    assert chosen(splits.test) == chosen(everything.test)
    assert [splits.test.name(i) for i in range(6)] == [everything.test.name(i) for i in range(6)]
    # the validation split does not depend on how much training data is left
    assert chosen(splits.val) == chosen(mine.read(val_fraction=0.2, seed=4).val)


@pytest.mark.parametrize("how", [{"shots": 2}, {"train_fraction": 0.5}, {"val_fraction": 0.3}])
def test_read_is_seeded(mine, how):
    part = "val" if "val_fraction" in how else "train"
    draws = [chosen(getattr(mine.read(**how, seed=seed), part)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_read_without_arguments_takes_everything(mine):
    assert mine.read().sizes == {"train": 30, "val": 0, "test": 6}


def test_a_validation_split_of_the_data_set_is_kept():
    splits = find_dataset("digits").read(val_fraction=0.5, shots=4)
    assert splits.sizes == {"train": 40, "val": 359, "test": 360}


def test_coops_protocol(mine):
    """16 shots and 4 for validation, here of a validation split that is cut off first: 10 images -> 7 and 3."""
    splits = mine.read(shots=2, val_fraction=0.3, val_shots=1)
    assert splits.sizes == {"train": 6, "val": 3, "test": 6}
    assert per_label(splits.train)[:3] == [2, 2, 2] and per_label(splits.val)[:3] == [1, 1, 1]
