"""Asks every address of the table of data sets whether it still has its file."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from data.dataset import Dataset
from errors import RunError
from tools.preparing.downloading import BROKEN, ask, in_words, patiently, web_address

TOGETHER = 8  # addresses that are asked at a time


def check(datasets: Iterable[Dataset]) -> None:
    """Prints a table of the addresses and what they answered. Raises a RunError if one of them has no file."""
    files = [(row.name, file.path, url) for row in datasets for file in row.downloads for url in file.urls]
    with ThreadPoolExecutor(TOGETHER) as pool:
        answers = list(pool.map(answer, [url for *_, url in files]))
    lines = [("data set", "file", "answer", "address")]
    lines += [(name, path, found, url) for (name, path, url), (_, found) in zip(files, answers, strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
    if dead := [url for (*_, url), (alive, _) in zip(files, answers, strict=True) if not alive]:
        found = f"{len(dead)} of {len(files)} do not have their file: {', '.join(dead)}"
        next_step = "Replace each in data/catalog.py by an address that has a file of the same md5."
        if len(dead) == len(files):
            next_step = "Not one of them answered: see first whether this machine reaches the network."
        raise RunError(f"The head of a file was asked for at {len(files)} addresses.", found, next_step)


def answer(url: str) -> tuple[bool, str]:
    """Whether an address has its file, and what it answered."""
    try:
        size = patiently(lambda: ask(web_address(url)), attempts=2)
    except BROKEN as error:
        return False, in_words(error)
    return True, "ok" if size is None else f"ok, {size:,} bytes"
