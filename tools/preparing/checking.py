"""Asks every address of the table of data sets whether it still has its file."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from data.dataset import Dataset
from errors import RunError
from tools.preparing.downloading import BROKEN, ask, in_words, patiently, web_address

TOGETHER = 8  # addresses that are asked at a time


def check(datasets: Iterable[Dataset]) -> None:
    """Prints a table of the addresses and what they answered. Raises a RunError if one of them did not give its file.

    Files without an address are named: they are in another file's archive, or a user gets them by hand.
    """
    datasets = list(datasets)
    files = [(row.name, file.path, url) for row in datasets for file in row.downloads for url in file.urls]
    with ThreadPoolExecutor(TOGETHER) as pool:
        answers = list(pool.map(answer, [url for *_, url in files]))
    lines = [("data set", "file", "answer", "address")]
    lines += [(name, path, found, url) for (name, path, url), (_, found) in zip(files, answers, strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
    if unasked := [file.path for row in datasets for file in row.downloads if not file.urls]:
        print(f"Not asked for, without an address of their own: {', '.join(unasked)}")
    if by_hand := [row.name for row in datasets if row.by_hand and not row.downloads]:
        print(f"Made by hand: {', '.join(by_hand)}")
    if dead := [url for (*_, url), (alive, _) in zip(files, answers, strict=True) if not alive]:
        number = "1 address" if len(files) == 1 else f"{len(files)} addresses"
        asked = f"The head of a file was asked for at {number}."
        if len(dead) == len(files):
            next_step = "See first whether this machine reaches the network, then type the command again."
            raise RunError(asked, "Not one of them gave it. The table says what each answered.", next_step)
        found = "\n".join([f"{len(dead)} of them did not give it:", *(f"  {url}" for url in dead)])
        raise RunError(asked, found, "Replace each in data/catalog.py by an address that has a file of the same md5.")


def answer(url: str) -> tuple[bool, str]:
    """Whether an address has its file, and what it answered."""
    try:
        size = patiently(lambda: ask(web_address(url)), attempts=2, tell=False)
    except BROKEN as error:
        return False, in_words(error)
    return True, "ok" if size is None else f"ok, {size:,} bytes"
