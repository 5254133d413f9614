"""Answers of a network that only answers, kept on disk, so that no image is asked twice."""

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import cfg
from errors import UserError


class Answers:
    """Class scores (S,) float32 by a key of the image, in one SQLite file.

    An answer is written whole or not at all. Several processes may read and write at the same time.

    Args:
        file: it is made, with its folder, when the first answer is looked up.
        classes: S. What has another length is damaged, and counts as missing.

    Raises:
        UserError: the file is damaged or cannot be used, in all methods.
    """

    def __init__(self, file: Path, classes: int):
        self.file, self._bytes = file, 4 * classes

    def look_up(self, keys: Sequence[str], ask: Callable[[list[int]], Tensor]) -> Tensor:
        """The scores (B,S) of the images with these keys.

        Args:
            ask: the positions of images without an answer, one for each key -> their scores. These are kept.
        """
        first = {key: position for position, key in reversed([*enumerate(keys)])}
        found = self.find(first)
        missing = {key: position for key, position in first.items() if key not in found}
        if missing:
            asked = dict(zip(missing, ask([*missing.values()]).to("cpu", torch.float32), strict=True))
            self.keep(asked)
            found |= asked
        return torch.stack([found[key] for key in keys])

    def find(self, keys: Sequence[str] | dict) -> dict[str, Tensor]:
        """The answers that are there, by key."""
        with self._opened() as file:
            rows = (file.execute("SELECT scores FROM answers WHERE image = ?", [key]).fetchone() for key in keys)
            found = {key: row[0] for key, row in zip(keys, rows, strict=True) if row}
        whole = {key: scores for key, scores in found.items() if type(scores) is bytes and len(scores) == self._bytes}
        return {key: torch.from_numpy(np.frombuffer(scores, "<f4").astype(np.float32)) for key, scores in whole.items()}

    def keep(self, answers: dict[str, Tensor]) -> None:
        rows = [(key, scores.numpy().astype("<f4").tobytes()) for key, scores in answers.items()]
        with self._opened() as file, file:  # the second makes it one transaction
            file.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.file, timeout=60)) as file:
                file.execute("CREATE TABLE IF NOT EXISTS answers (image TEXT PRIMARY KEY, scores BLOB) WITHOUT ROWID")
                yield file
        except (sqlite3.Error, UnicodeDecodeError, OSError) as error:  # a damaged name is no UTF-8
            raise UserError(
                f"{self.file} keeps the answers of a network, so that no image is asked twice.",
                f"It cannot be used: {str(error) or type(error).__name__}.",
                "If it is damaged, delete it; its images are then asked again."
                " Else set VP_RESULTS_PATH to a folder that you may write in, on a file system with locks.",
            ) from None


def answers_file(name: str) -> Path:
    """Where the answers of a network are kept, for all runs."""
    return cfg.results_path / "answers" / f"{re.sub('[^A-Za-z0-9]+', '-', name)[-120:]}.sqlite"
