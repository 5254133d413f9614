"""TensorBoard: a run's numbers and pictures, live."""

import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from tools.common.files import unwritable


def _in_a_thread(args: threading.ExceptHookArgs) -> None:
    """Hides an OSError of TensorBoard's thread: `show` gets the same error and reports it."""
    if not isinstance(args.exc_value, OSError):
        threading.__excepthook__(args)


class Board:
    """The run's `tensorboard/` folder.

    Args:
        done: how many epochs are kept. Later epochs of an earlier start are removed from the board.
    """

    def __init__(self, folder: Path, done: int):
        from torch.utils.tensorboard import SummaryWriter  # late: slow to import

        self.folder = folder
        threading.excepthook = _in_a_thread
        self._writer = SummaryWriter(str(folder), purge_step=done + 1)

    def show(self, record: dict, pictures: list[Path]) -> None:
        """Adds an epoch's numbers and its PNG files, under their names, at the epoch of the record.

        An entry that is no number, such as `new_sources`, is in log.jsonl alone.

        Raises:
            RunError: the disk is full.
        """
        try:
            for name, value in record.items():
                if not isinstance(value, dict):
                    self._writer.add_scalar(name, value, record["epoch"])
            for file in pictures:
                self._writer.add_image(file.stem, np.asarray(Image.open(file)), record["epoch"], dataformats="HWC")
            self._writer.flush()
        except OSError as error:
            raise unwritable(self.folder, error) from None

    def close(self) -> None:
        with suppress(OSError):  # the disk is full: the run reports this when it saves its checkpoint
            self._writer.close()
