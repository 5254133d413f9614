"""TensorBoard: a run's numbers and pictures, live."""

import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from tools.common.files import unwritable


def _in_a_thread(args: threading.ExceptHookArgs) -> None:
    """A file that TensorBoard's thread could not write is told of by `show`, which gets the same error."""
    if not isinstance(args.exc_value, OSError):
        threading.__excepthook__(args)


class Board:
    """The run's `tensorboard/` folder.

    Args:
        done: epochs that are kept; what an earlier start showed of later ones is taken off the board.
    """

    def __init__(self, folder: Path, done: int):
        from torch.utils.tensorboard import SummaryWriter  # late: slow to import

        self.folder = folder
        threading.excepthook = _in_a_thread
        self._writer = SummaryWriter(str(folder), purge_step=done + 1)

    def show(self, record: dict, pictures: list[Path]) -> None:
        """Adds the numbers of an epoch's record and PNG files, under their names, at the record's epoch.

        Raises:
            RunError: the disk is full.
        """
        try:
            for name, value in record.items():
                self._writer.add_scalar(name, value, record["epoch"])
            for file in pictures:
                self._writer.add_image(file.stem, np.asarray(Image.open(file)), record["epoch"], dataformats="HWC")
            self._writer.flush()
        except OSError as error:
            raise unwritable(self.folder, error) from None

    def close(self) -> None:
        with suppress(OSError):  # the disk is full, which the run says of its checkpoint already
            self._writer.close()
