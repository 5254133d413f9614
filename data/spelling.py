"""Paths in split files as other systems write them: absolute, with backslashes, in another Unicode normal form."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from unicodedata import normalize

from data.sources import is_below
from errors import printable


def on_disk(path: str, roots: Sequence[Path]) -> str | None:
    """The path of an image as it is written on the disk, relative to the folder of images. None if it leads out.

    If there is no such file, it is the path with `/` in place of backslashes.

    Args:
        path: as a split file has it: relative, or absolute and below one of the roots.
        roots: the folders that may be the folder of images.
    """
    if PurePath(path).is_absolute():
        path = _relative(path, roots)
    if path is None or not is_below(slashes := path.replace("\\", "/")):
        return None
    if path.isascii() and path == slashes:  # nearly all are plain, and need no look at the disk
        return path
    # macOS keeps letters and their accents apart (NFD). Elsewhere a name may hold a backslash.
    spellings = dict.fromkeys((path, slashes, normalize("NFC", slashes), normalize("NFD", slashes)))
    there = (spelling for spelling in spellings for root in roots if os.path.isfile(root / spelling))
    return next(there, slashes)


def _relative(path: str, roots: Sequence[Path]) -> str | None:
    """An absolute path relative to a root. None if it is below none, or if another root has another such file."""
    for root in roots:
        for base in (root.absolute(), root.resolve()):
            if PurePath(path).is_relative_to(base):
                relative = PurePath(path).relative_to(base).as_posix()
                same = [os.path.realpath(other / relative) for other in roots if os.path.isfile(other / relative)]
                return relative if set(same) <= {os.path.realpath(path)} else None
    return None


def tell_spellings(written: dict[str, str], where: str) -> None:
    """Prints a line for each way in which paths of a file differ from how they are written on the disk.

    Args:
        written: by path, what `on_disk` says of it.
    """
    differ = [path for path, found in written.items() if not path.endswith(found)]  # an absolute path ends with it
    backslashes = [path for path in differ if "\\" in path]
    other_form = [path for path in differ if not path.replace("\\", "/").endswith(written[path])]
    for what, paths in (
        ("backslashes, which are read as slashes", backslashes),
        ("another Unicode normal form on the disk", other_form),
    ):
        if paths:
            print(printable(f"{where}: {len(paths)} paths have {what}, such as {paths[0][:200]}"), flush=True)
