"""log.jsonl: one line an epoch."""

import json
from pathlib import Path

from errors import UserError
from tools.common.files import unwritable, write_whole
from tools.common.processes import is_first


class Log:
    """The epochs of one run, in memory and in a file.

    Attributes:
        records: one dict an epoch.
    """

    def __init__(self, path: Path):
        self.path = path
        self.records: list[dict] = []

    def read(self) -> None:
        """Reads the lines of an earlier start, up to the first damaged one."""
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []:
            try:
                record = json.loads(line)
            except ValueError:
                break
            if not isinstance(record, dict) or record.get("epoch") != len(self.records) + 1:
                break
            self.records.append(record)

    def keep(self, epochs: int) -> None:
        """Drops the epochs after the checkpoint: they are trained again.

        Raises:
            UserError: epochs before the checkpoint are missing, so the run's summary would be wrong.
        """
        if len(self.records) < epochs:
            raise UserError(
                f"{self.path} should hold the {epochs} epochs of the checkpoint beside it.",
                f"It holds {len(self.records)}.",
                "Put the file back, or start over with --fresh.",
            )
        self.records = self.records[:epochs]
        text = "".join(json.dumps(record) + "\n" for record in self.records)
        write_whole(self.path, lambda file: file.write_text(text, encoding="utf-8"))

    def append(self, record: dict) -> None:
        if is_first():
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            except OSError as error:
                raise unwritable(self.path, error) from None
        self.records.append(record)

    @staticmethod
    def line(record: dict, epochs: int, precision: str = "float32") -> str:
        """An epoch's line for the terminal. It names a precision that is not float32."""
        parts = [f"epoch {record['epoch']:>3}/{epochs}" if epochs else "no training"]
        for split in ("train", "val", "test"):
            if f"{split}_acc" in record:
                parts.append(f"{split} acc {record[f'{split}_acc']:.4f} loss {record[f'{split}_loss']:.3f}")
        if "remapped" in record:
            parts.append(f"re-mapped {record['remapped']:.0%}")
        if record.get("targets_without_predictions"):
            parts.append(f"targets without predictions {record['targets_without_predictions']}")
        if "calls" in record:
            parts.append(f"calls {record['calls']} images asked {record['images_asked']}")
        parts.append(f"{record['seconds']:.1f} s")
        parts += [precision] if precision != "float32" else []
        return "  ".join(parts)
