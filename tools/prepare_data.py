"""Downloads, unpacks and verifies data sets below cfg.data_path:  python tools/prepare_data.py dtd flowers102

If you type the same command again, it continues where it stopped, and does not change complete files. FILE.part is an
incomplete download. ARCHIVE.unpacking/ holds the files unpacked so far. ARCHIVE.unpacked marks a finished unpacking.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
from contextlib import suppress

import cfg
from data import catalog
from data.dataset import Dataset, Download
from data.sources import ImageFiles
from errors import RunError, UserError, unknown_name
from tools.common.command import run_command
from tools.preparing.checking import check
from tools.preparing.downloading import download
from tools.preparing.unpacking import unpack

COMMAND = "python tools/prepare_data.py"


def main(argv: list[str] | None = None) -> None:
    rows = {row.name: row for row in catalog.DATASETS}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of {', '.join(rows)}")
    parser.add_argument(
        "--check",
        action="store_true",
        help="asks each address (of the data sets NAME, or of all) whether it has its file",
    )
    args = parser.parse_args(argv)
    names = list(dict.fromkeys(args.names))
    if not names and not args.check:
        parser.exit(2, parser.format_help())
    if unknown := [name for name in names if name not in rows]:
        raise unknown_name(COMMAND, unknown[0], rows)
    if args.check:
        return check([rows[name] for name in names or rows])
    prepare_all([rows[name] for name in names])


def prepare_all(datasets: list[Dataset]) -> None:
    """Prepares one data set after the other. Raises a UserError that names those that failed."""
    failed = []
    for dataset in datasets:
        try:
            prepare(dataset)
        except UserError as error:
            if len(datasets) == 1:
                raise
            print(f"\n{error}\n", file=sys.stderr)
            failed.append(dataset.name)
    if failed:
        asked = f"To prepare: {', '.join(dataset.name for dataset in datasets)}."
        next_step = f"The reasons are printed above. Correct them, then type: {COMMAND} {' '.join(failed)}"
        raise UserError(asked, f"Failed: {', '.join(failed)}.", next_step)


def prepare(dataset: Dataset) -> None:
    """Downloads file after file, until the data set is complete. Raises a UserError if it cannot be completed."""
    try:
        for needed in dataset.downloads:
            with suppress(UserError):  # the files on disk, in any layout, may be all that is needed
                return verify(dataset)
            obtain(dataset, needed)
        verify(dataset)
    except OSError as error:
        next_step = "Free disk space there, correct its permissions, or set VP_DATA_PATH. Then type the command again."
        raise RunError(f"{dataset.name} is kept in {cfg.data_path}.", f"It cannot be: {error}", next_step) from None


def verify(dataset: Dataset) -> None:
    """Prints that a data set is complete. Raises a UserError if it cannot be read or differs from its row."""
    name, by_hand = dataset.name, dataset.by_hand.format(data_path=cfg.data_path)
    next_step = by_hand or "Type: pip install -r requirements.txt"
    if dataset.downloads:
        home = cfg.data_path / dataset.downloads[0].path.partition("/")[0]
        next_step = (
            f"{by_hand} To start over, delete all but the archives in {home}, then type: {COMMAND} {name}".strip()
        )
    try:
        splits = dataset.layout.read(cfg.data_path, name)
    except UserError as error:  # its last line names this same command
        raise UserError(f"{name}: it is not complete.", f"{error.asked}\n{error.found}", next_step) from None
    parts = (splits.train, splits.val, splits.test)
    found = (len(splits.class_names), *(len(part) if part else 0 for part in parts))
    expected = (dataset.num_classes or found[0], *dataset.counts)
    if found[: len(expected)] != expected:
        raise UserError(f"{name}: expected {in_words(expected)}.", f"Found {in_words(found)}.", next_step)
    on_disk = [part for part in parts if part and isinstance(part.source, ImageFiles)]
    files = [part.source.root / part.name(position) for part in on_disk for position in range(len(part))]
    if missing := [str(file) for file in files if not file.is_file()]:
        some = f"{len(missing)} are missing, such as {', '.join(missing[:3])}."
        raise UserError(f"{name}: expected {len(files)} image files.", some, next_step)
    print(f"{name}: complete ({in_words(found)})")
    for file in (cfg.data_path / needed.path for needed in dataset.downloads):
        if file.is_file() and Path(f"{file}.unpacked").exists():
            print(f"  {file} is unpacked and may be deleted.")


def in_words(numbers: tuple[int, ...]) -> str:
    kinds = ("classes", "training", "validation", "test images")
    return ", ".join(f"{number} {kind}" for number, kind in zip(numbers, kinds, strict=False))


def obtain(dataset: Dataset, needed: Download) -> None:
    """Downloads one file if it is missing, and unpacks it if it is an archive."""
    file = cfg.data_path / needed.path
    if Path(f"{file}.unpacked").exists():
        return
    if not file.is_file():
        by_hand = dataset.by_hand.format(data_path=cfg.data_path)
        download(dataset.name, needed.urls, file, needed.md5, by_hand)
    if needed.extract_to is not None:
        unpack(file, cfg.data_path / needed.extract_to)


if __name__ == "__main__":
    run_command(main)
