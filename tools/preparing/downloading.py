"""Gets a file from the first of its addresses that has it."""

import http.client
import shutil
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from torchvision.datasets.utils import calculate_md5
from tqdm import tqdm

from errors import UserError

DRIVE = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"
DRIVE_PAGE = "https://drive.google.com/file/d/{}/view"
ATTEMPTS, PAUSE, TIMEOUT, CHUNK = 5, 2.0, 60.0, 1 << 16  # connections an address, seconds, seconds, bytes
HEADERS = {"User-Agent": "visual-prompting"}
Answer = TypeVar("Answer")


class WrongFile(Exception):
    """An address gave another file than the one that is expected."""


BROKEN = (URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError, WrongFile)


def web_address(url: str) -> str:
    """The address that is asked; `drive:ID` is a file of Google Drive."""
    return DRIVE.format(url.removeprefix("drive:")) if url.startswith("drive:") else url


def download(name: str, urls: Sequence[str], file: Path, md5: str | None, by_hand: str) -> None:
    """Gets a file of the data set `name`. `file` is whole or not there; FILE.part holds the bytes that came so far.

    Raises:
        UserError: no address gave it. The message says what each of them answered.
        OSError: it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part, answers = Path(f"{file}.part"), []
    for url in map(web_address, urls):
        print(f"{name}: downloading {url}", flush=True)
        try:
            fetch(url, part, md5)
            part.replace(file)
            return
        except BROKEN as error:
            answers.append(f"{url}: {in_words(error)}")
    found = "\n".join(["It failed:", *answers]) if answers else "No server is known that has it."
    pages = [DRIVE_PAGE.format(url.removeprefix("drive:")) for url in urls if url.startswith("drive:")]
    steps = [f"Open {page} in a browser and put the file at {file}." for page in pages] or [f"Put the file at {file}."]
    if part.exists():
        steps.insert(0, f"If you type the command again, it goes on with the {part.stat().st_size} bytes that came.")
    steps += [by_hand] * bool(by_hand) + ["Then type the command again."]
    raise UserError(f"{name}: {file.name} is needed.", found, " ".join(steps))


def fetch(url: str, part: Path, md5: str | None) -> None:
    """Completes `part` from one address and compares its md5. Raises one of BROKEN, or OSError on a full disk."""
    begun = part.exists()
    patiently(lambda: receive(url, part))
    if md5 is None or (found := calculate_md5(part)) == md5:
        return
    part.unlink()
    if not begun:
        raise WrongFile(f"its file has the md5 {found}, not {md5}; it has been deleted")
    fetch(url, part, md5)  # what was there may have been the begin of another file


def patiently(connect: Callable[[], Answer], attempts: int = ATTEMPTS, tell: bool = True) -> Answer:
    """Connects again if the connection breaks, up to `attempts` times in all. With `tell` it prints why."""
    for attempt in range(1, attempts + 1):
        try:
            return connect()
        except BROKEN as error:
            if is_final(error) or attempt == attempts:
                raise
            if tell:
                print(f"  {in_words(error)}; connecting again", flush=True)
            time.sleep(PAUSE * attempt)


def in_words(error: Exception) -> str:
    """What an address answered, or why there was no answer."""
    return str(error if isinstance(error, HTTPError) else getattr(error, "reason", error))


def is_final(error: Exception) -> bool:
    """Whether an address will answer the same when it is asked again at once."""
    if isinstance(error, HTTPError):
        return error.code < 500 and error.code not in (408, 416, 429)
    return isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError)


def receive(url: str, part: Path) -> None:
    """Appends the missing bytes to `part`, over one connection. Raises one of BROKEN, or OSError on a full disk."""
    start = part.stat().st_size if part.exists() else 0
    headers = HEADERS | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416:  # no byte is missing, or this is not a part of the server's file
            if error.headers["Content-Range"] == f"bytes */{start}":
                return
            part.unlink()
        raise
    with response:
        refuse_page(response, url)
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


def refuse_page(response: http.client.HTTPResponse, url: str) -> None:
    """Raises HTTPError if a web page comes. Google Drive sends one for a file that is asked for too often."""
    if response.headers.get_content_type() == "text/html":
        raise HTTPError(url, response.status, "a web page came instead of the file", response.headers, None)


def ask(url: str) -> int | None:
    """Asks an address for the head of its file, or for one byte if it refuses that.

    Returns:
        The file's size in bytes, or None if the server does not tell it.

    Raises:
        One of BROKEN: the address does not have the file.
    """
    try:
        with urlopen(Request(url, headers=HEADERS, method="HEAD"), timeout=TIMEOUT) as response:
            refuse_page(response, url)
            size = response.headers["Content-Length"]
    except HTTPError as refusal:  # some servers answer only to GET
        if refusal.code in (404, 410):
            raise
        with urlopen(Request(url, headers=HEADERS | {"Range": "bytes=0-0"}), timeout=TIMEOUT) as response:
            refuse_page(response, url)
            ranged = response.status == 206  # Content-Range: bytes 0-0/SIZE
            size = response.headers["Content-Range" if ranged else "Content-Length"]
    size = (size or "").rpartition("/")[2]
    return int(size) if size.isdecimal() else None
