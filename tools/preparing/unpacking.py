"""Unpacks archives so that a crash leaves no half of a file, and no archive writes outside of its folder."""

import gzip
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

from data.files import UNPACKING
from errors import UserError


def unpack(archive: Path, target: Path) -> None:
    """Unpacks a .zip or .tar.* into a folder beside it, then moves the files: `target` never has half a file."""
    workshop = Path(f"{archive}{UNPACKING}").resolve()
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
