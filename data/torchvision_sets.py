"""Data sets in torchvision's folders: CIFAR-10, CIFAR-100, SVHN, GTSRB, CLEVR."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.files import PassedOver, folders_in, images_below, leads_to_leftover
from data.sources import ImageArrays, ImageFiles, is_below
from data.splits import Split, Splits, whole
from errors import UserError, prepare_command

GTSRB_NAMES = tuple(
    """20_speed 30_speed 50_speed 60_speed 70_speed 80_speed 80_lifted 100_speed 120_speed no_overtaking_general
    no_overtaking_trucks right_of_way_crossing right_of_way_general give_way stop no_way_general no_way_trucks
    no_way_one_way attention_general attention_left_turn attention_right_turn attention_curvy attention_bumpers
    attention_slippery attention_bottleneck attention_construction attention_traffic_light attention_pedestrian
    attention_children attention_bikes attention_snowflake attention_deer lifted_general turn_right turn_left
    turn_straight turn_straight_right turn_straight_left turn_right_down turn_left_down turn_circle
    lifted_no_overtaking_general lifted_no_overtaking_trucks""".split()
)
CLEVR_NAMES = tuple("three four five six seven eight nine ten".split())


@dataclass(frozen=True)
class Torchvision:
    """Files in `data_path/NAME` or `data_path`, as torchvision lays them out. No validation split of its own.

    One or two folders may stand between `data_path/NAME` and the files.

    Args:
        read_part: (root, True for train) -> class names and split. It raises RuntimeError or FileNotFoundError if the
            files are not there.
    """

    read_part: Callable[[Path, bool], tuple[Sequence[str], Split]]

    def read(self, data_path: Path, name: str) -> Splits:
        reasons = []
        for root in (data_path / name, data_path, *_folders_below(data_path / name)):
            try:
                (names, train), (_, test) = self.read_part(root, True), self.read_part(root, False)
            except (RuntimeError, FileNotFoundError) as error:
                reason = str(error).split(" You can use download")[0].rstrip(".")  # our flag has another name
                reasons.append(f" In {root}: {reason}.")
                continue
            except UserError:
                raise
            except Exception as error:  # torchvision's readers raise many kinds for a damaged file
                raise UserError(
                    f"--dataset {name}: its files in {root} cannot be read.",
                    f"{type(error).__name__}: {error}",
                    f"Type: {prepare_command(name)}",
                ) from None
            return Splits(name, tuple(names), train, None, test)
        raise UserError(
            f"--dataset {name}: its files, in torchvision's layout, are read from data_path ({data_path}).",
            f"They are not in {data_path / name}, or they are damaged."
            + ("".join(reasons[:3]) if data_path.is_dir() else " data_path itself is not there."),
            f"If it lies elsewhere set VP_DATA_PATH, or data_path in cfg.py. If not, type: {prepare_command(name)}",
        )


def _folders_below(home: Path) -> Iterator[Path]:
    """The folders in a folder, and those in them, without those of an archive that is being unpacked."""
    for pattern in ("*", "*/*"):
        found = sorted(path for path in home.glob(pattern) if path.is_dir())
        yield from (path for path in found if not leads_to_leftover(str(path.relative_to(home))))


def read_cifar(name: str) -> Callable[[Path, bool], tuple[Sequence[str], Split]]:
    """Reads CIFAR10 or CIFAR100. Their files are pickles; torchvision compares checksums before it opens them."""

    def read_part(root: Path, train: bool) -> tuple[Sequence[str], Split]:
        from torchvision import datasets  # takes seconds to import, here and below

        content = getattr(datasets, name)(root, train=train)
        return content.classes, whole(ImageArrays(content.data), content.targets)

    return read_part


def read_svhn(root: Path, train: bool) -> tuple[Sequence[str], Split]:
    from torchvision import datasets

    content = datasets.SVHN(root, split="train" if train else "test")
    return "0123456789", whole(ImageArrays(np.ascontiguousarray(content.data.transpose(0, 2, 3, 1))), content.labels)


def read_gtsrb(root: Path, train: bool) -> tuple[Sequence[str], Split]:
    """torchvision's own class takes every folder for a class, so that one more folder moves all labels."""
    home = root / "gtsrb"
    folder = home / "GTSRB" / ("Training" if train else "Final_Test/Images")
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no {folder}")
    if train:
        passed = PassedOver("gtsrb train", belongs=(".csv", ".txt"))
        classes = folders_in(folder, passed)
        paths = [f"{name}/{path}" for name in classes for path in images_below(folder / name, passed)]
        labels = [int(path.partition("/")[0]) for path in paths]  # folders are called 00000 to 00042
        passed.tell()
    else:
        with (home / "GT-final_test.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter=";", skipinitialspace=True))
        paths, labels = [row["Filename"] for row in rows], [int(row["ClassId"]) for row in rows]
    return GTSRB_NAMES, whole(_images(folder, paths), labels)


def _images(root: Path, paths: Sequence[str]) -> ImageFiles:
    """Images that a data set's file names. Raises ValueError if one of them is not below root."""
    if outside := next((path for path in paths if not is_below(path)), None):
        raise ValueError(f"{outside[:200]} lies outside")
    return ImageFiles(root, paths)


def read_clevr(root: Path, train: bool) -> tuple[Sequence[str], Split]:
    """The label is the number of objects in the picture. Of the scenes' descriptions nothing else is kept.

    torchvision's own class keeps all descriptions, which takes three times the memory and time. It also skips missing
    images. Here the memory is twice the file's size, and the largest file (70,000 scenes) takes a few seconds.
    """
    part, home = "train" if train else "val", root / "clevr" / "CLEVR_v1.0"
    if not (home / "images" / part).is_dir():
        raise FileNotFoundError(f"There is no {home / 'images' / part}")

    def summary(value: dict) -> tuple[str, int] | list | None:
        return (value["image_filename"], len(value["objects"])) if "objects" in value else value.get("scenes")

    with (home / "scenes" / f"CLEVR_{part}_scenes.json").open(encoding="utf-8") as file:
        scenes = sorted(json.load(file, object_hook=summary))
    paths = [path for path, _ in scenes]
    return CLEVR_NAMES, whole(_images(home / "images" / part, paths), [count - 3 for _, count in scenes])
