"""Data sets whose files torchvision reads: CIFAR-10, CIFAR-100, SVHN, GTSRB."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torchvision import datasets

from data.splits import ImageArrays, ImageFiles, Split, Splits, whole
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


@dataclass(frozen=True)
class Torchvision:
    """Files in `data_path/NAME` or `data_path`, as torchvision lays them out. No validation split of its own.

    Args:
        read_part: (root, True for train) -> class names and split; raises RuntimeError where the files are not.
    """

    read_part: Callable[[Path, bool], tuple[Sequence[str], Split]]

    def read(self, data_path: Path, name: str) -> Splits:
        for root in (data_path / name, data_path):
            try:
                (names, train), (_, test) = self.read_part(root, True), self.read_part(root, False)
            except (RuntimeError, FileNotFoundError):
                continue
            except Exception as error:  # a damaged file: the reader behind torchvision raises what it likes
                raise UserError(
                    f"--dataset {name}: its files in {root} cannot be read.",
                    f"{type(error).__name__}: {error}",
                    f"Type: {prepare_command(name)}",
                ) from None
            return Splits(name, tuple(names), train, None, test)
        raise UserError(
            f"--dataset {name}: its files, in torchvision's layout, are read from data_path ({data_path}).",
            f"They are not in {data_path / name}, or they are damaged."
            + ("" if data_path.is_dir() else " data_path itself is not there."),
            f"If it lies elsewhere set VP_DATA_PATH, or data_path in cfg.py. If not, type: {prepare_command(name)}",
        )


def read_cifar(dataset: type[datasets.CIFAR10]) -> Callable[[Path, bool], tuple[Sequence[str], Split]]:
    """CIFAR's files are pickles: torchvision compares their checksums before it opens them."""

    def read_part(root: Path, train: bool) -> tuple[Sequence[str], Split]:
        content = dataset(root, train=train)
        return content.classes, whole(ImageArrays(content.data), content.targets)

    return read_part


def read_svhn(root: Path, train: bool) -> tuple[Sequence[str], Split]:
    content = datasets.SVHN(root, split="train" if train else "test")
    return "0123456789", whole(ImageArrays(np.ascontiguousarray(content.data.transpose(0, 2, 3, 1))), content.labels)


def read_gtsrb(root: Path, train: bool) -> tuple[Sequence[str], Split]:
    samples = datasets.GTSRB(root, split="train" if train else "test")._samples
    paths = [str(Path(path).relative_to(root)) for path, _ in samples]
    return GTSRB_NAMES, whole(ImageFiles(root, paths), [label for _, label in samples])
