"""Downloads, unpacks and verifies data sets below cfg.data_path:  python tools/prepare_data.py dtd flowers102

If you type the same command again, it continues where it stopped, and does not change complete files. FILE.part is an
incomplete download. ARCHIVE.unpacking/ holds the files unpacked so far. ARCHIVE.unpacked marks a finished unpacking.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import gzip
import http.client
import shutil
import ssl
import tarfile
import time
import zipfile
import zlib
from contextlib import suppress
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from torchvision.datasets.utils import calculate_md5
from tqdm import tqdm

import cfg
from data import catalog
from data.splits import ImageFiles
from errors import RunError, UserError, unknown_name
from tools.common.command import run_command

COMMAND = "python tools/prepare_data.py"
DRIVE = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"
ATTEMPTS, PAUSE, TIMEOUT, CHUNK = 5, 2.0, 60.0, 1 << 16  # connections a file, seconds, seconds, bytes
BROKEN = (URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError)


def main(argv: list[str] | None = None) -> None:
    rows = {row.name: row for row in catalog.DATASETS}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of {', '.join(rows)}")
    names = list(dict.fromkeys(parser.parse_args(argv).names))
    if not names:
        parser.exit(2, parser.format_help())
    if unknown := [name for name in names if name not in rows]:
        raise unknown_name(COMMAND, unknown[0], rows)
    failed = []
    for name in names:
        try:
            prepare(rows[name])
        except UserError as error:
            if len(names) == 1:
                raise
            print(f"\n{error}\n", file=sys.stderr)
            failed.append(name)
    if failed:
        next_step = f"The reasons are printed above. Correct them, then type: {COMMAND} {' '.join(failed)}"
        raise UserError(f"To prepare: {', '.join(names)}.", f"Failed: {', '.join(failed)}.", next_step)


def prepare(dataset: catalog.Dataset) -> None:
    """Downloads file after file, until the data set is complete. Raises a UserError if it cannot be completed."""
    try:
        for download in dataset.downloads:
            with suppress(UserError):  # the files on disk, in any layout, may be all that is needed
                return verify(dataset)
            obtain(dataset, download)
        verify(dataset)
    except OSError as error:
        next_step = "Free disk space there, correct its permissions, or set VP_DATA_PATH. Then type the command again."
        raise RunError(f"{dataset.name} is kept in {cfg.data_path}.", f"It cannot be: {error}", next_step) from None


def verify(dataset: catalog.Dataset) -> None:
    """Prints that a data set is complete. Raises a UserError if it cannot be read or differs from its row."""
    name, by_hand = dataset.name, dataset.by_hand.format(data_path=cfg.data_path)
    next_step = by_hand or "Type: pip install -r requirements.txt"
    if dataset.downloads:
        home = cfg.data_path / dataset.downloads[0].path.partition("/")[0]
        next_step = f"To start over, delete all but the archives in {home}, then type: {COMMAND} {name}"
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
    for file in (cfg.data_path / download.path for download in dataset.downloads):
        if file.is_file() and Path(f"{file}.unpacked").exists():
            print(f"  {file} is unpacked and may be deleted.")


def in_words(numbers: tuple[int, ...]) -> str:
    kinds = ("classes", "training", "validation", "test images")
    return ", ".join(f"{number} {kind}" for number, kind in zip(numbers, kinds, strict=False))


def obtain(dataset: catalog.Dataset, download: catalog.Download) -> None:
    """Downloads one file if it is missing, checks its md5, and unpacks it if it is an archive."""
    file = cfg.data_path / download.path
    if Path(f"{file}.unpacked").exists():
        return
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        fetch(dataset, download.url, part := Path(f"{file}.part"))
        if download.md5 and (md5 := calculate_md5(part)) != download.md5:
            part.unlink()
            found = f"Found {md5}. It has been deleted."
            raise UserError(f"{part}: expected the md5 {download.md5}.", found, "Type the command again.")
        part.replace(file)
    if download.extract_to is not None:
        unpack(file, cfg.data_path / download.extract_to)


def fetch(dataset: catalog.Dataset, url: str, part: Path) -> None:
    """Downloads one file. If the connection breaks, it connects again, up to ATTEMPTS times in all."""
    file, by_hand = part.with_suffix(""), dataset.by_hand.format(data_path=cfg.data_path)
    then = f"Type the command again later, or put the file at {file}. {by_hand}"
    if url.startswith("drive:"):
        drive_id = url.removeprefix("drive:")
        url, page = DRIVE.format(drive_id), f"https://drive.google.com/file/d/{drive_id}/view"
        then = f"Open {page} in a browser and put the file at {file}. Then type the command again. {by_hand}"
    print(f"{dataset.name}: downloading {url}", flush=True)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return receive(url, part)
        except BROKEN as error:
            refused = isinstance(error, HTTPError) and error.code < 500 and error.code not in (408, 416, 429)
            if refused or attempt == ATTEMPTS:
                raise UserError(f"{dataset.name}: {url} was asked for.", f"It failed: {error}", then.strip()) from None
            print(f"  {error}; connecting again", flush=True)
            time.sleep(PAUSE * attempt)


def receive(url: str, part: Path) -> None:
    """Appends the missing bytes to `part`, over one connection. Raises one of BROKEN, or OSError on a full disk."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "visual-prompting"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416:  # no byte is missing, or this is not a part of the server's file
            if error.headers["Content-Range"] == f"bytes */{start}":
                return
            part.unlink()
        raise
    with response:
        if response.headers.get_content_type() == "text/html":
            raise HTTPError(url, response.status, "a web page came instead of the file", response.headers, None)
        start = start if response.status == 206 else 0
        total = start + int(response.headers["Content-Length"] or 0)
        needed, free = 2 * total - start, shutil.disk_usage(part.parent).free  # twice: it may have to be unpacked
        if needed > free:
            raise OSError(f"{url} needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free.")
        bar = tqdm(desc=part.stem, total=total or None, initial=start, unit="B", unit_scale=True, leave=False)
        with bar, part.open("ab" if start else "wb") as out:
            while chunk := response.read(CHUNK):
                bar.update(out.write(chunk))
    if (received := part.stat().st_size) < total:
        raise ConnectionError(f"the connection ended after {received} of {total} bytes")


def unpack(archive: Path, target: Path) -> None:
    """Unpacks a .zip or .tar.* into a folder beside it, then moves the files: `target` never has half a file."""
    workshop = Path(f"{archive}.unpacking").resolve()
    shutil.rmtree(workshop, ignore_errors=True)
    is_zip = archive.suffix == ".zip"
    bar = tqdm(desc=f"unpacking {archive.name}", total=archive.stat().st_size, unit="B", unit_scale=True, leave=False)
    try:
        with bar, archive.open("rb") as file, zipfile.ZipFile(file) if is_zip else tarfile.open(fileobj=file) as opened:
            opened.extraction_filter = getattr(tarfile, "data_filter", None)  # absent before 3.10.12 and 3.11.4
            for member in opened.infolist() if is_zip else opened:
                name = member.filename if is_zip else member.name
                if not (workshop / name).resolve().is_relative_to(workshop):
                    raise tarfile.TarError(f"{name} would be written outside of it")
                opened.extract(member, workshop)
                bar.update(file.tell() - bar.n)
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        next_step = "Delete it, then type the command again."
        raise UserError(f"{archive} has to be unpacked.", f"It cannot be: {error}.", next_step) from None
    for path in [path.relative_to(workshop) for path in workshop.rglob("*") if path.is_file()]:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (workshop / path).replace(target / path)
    shutil.rmtree(workshop)
    Path(f"{archive}.unpacked").touch()


if __name__ == "__main__":
    run_command(main)
