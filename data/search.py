"""Finds a split file's images by name, whatever folders an archive or a mirror has put around them."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from data.files import files_below
from errors import UserError


def find_images(
    roots: Sequence[Path], paths: Sequence[str], name: str, *, unique_names: bool = False
) -> tuple[Path, dict[str, str]]:
    """Where a split's images are.

    If one of the roots has them all, as far as some paths tell, it is taken. Otherwise everything below the roots is
    searched. A file is the image of a path if it has the same name and lies in the path's folders, in the same order.
    Other folders may stand between and around them.

    Args:
        roots: the folders in which the paths begin, in one layout or another. They are below the data set's folders,
            which are among them.
        paths: relative, with `/`.
        name: the value of --dataset, for messages.
        unique_names: a name that the split has only once tells its image, whatever its folders are called.

    Returns:
        A folder, and by path the file, relative to this folder. An image that is not there has its path in the layout
        of the others.

    Raises:
        UserError: no image is there, two files may be the same image, or a folder cannot be read.
    """
    some = paths[:: max(1, len(paths) // 50)]  # from all over the list
    there = {root: sum(os.path.isfile(root / path) for path in some) for root in roots}
    best = max(there, key=there.get)
    as_given = {path: path for path in paths}
    if there[best] == len(some):
        return best, as_given
    homes = [root for root in there if root.is_dir() and not any(other in there for other in root.parents)]
    found = {home: _search(home, as_given, best, unique_names) for home in homes}
    home = max(found, key=lambda home: len(found[home]), default=best)
    if not found.get(home):
        raise UserError(
            f"--dataset {name}: images such as {some[0]} are named by its split file.",
            f"They are in none of {', '.join(map(str, there))}, nor below these folders.",
            "Copy the images into one of these folders.",
        )
    before = {file.removesuffix(path) if file.endswith(path) else None for path, file in found[home].items()}
    if len(before) == 1 and None not in before:  # the same folders stand before each path
        return home / before.pop(), as_given
    return home, {path: found[home].get(path) or os.path.relpath(best / path, home) for path in paths}


def _search(home: Path, paths: Iterable[str], usual: Path, unique_names: bool) -> dict[str, str]:
    """By path of the split its file, as a path relative to `home`, of all files that are there."""
    split = {path: PurePosixPath(path).parts or ("",) for path in paths}
    count = Counter(name for *_, name in split.values())
    files = defaultdict(list)  # by name alone, and by name and a folder: names such as 001.jpg are in every class
    for *folders, name in files_below(home):
        file = "/".join([*folders, name])
        for folder in {None, *folders} if name in count else ():
            files[folder, name].append(file)
    found = {}
    for path, (*folders, name) in split.items():
        by_name = not folders or (unique_names and count[name] == 1)
        candidates = files[None if by_name else folders[-1], name]
        if not by_name:
            candidates = [file for file in candidates if _in_order(folders, file.split("/")[:-1])]
        if candidates:
            found[path] = candidates[0] if len(candidates) == 1 else _choose(candidates, path, usual, home)
    for file, times in Counter(found.values()).items():
        if times > 1:
            both = " and ".join([path for path in found if found[path] == file][:2])
            raise _ambiguous(home, f"{both} are named by the split file.", f"Both may be {file}.")
    return found


def _in_order(folders: Sequence[str], within: Sequence[str]) -> bool:
    """Whether all folders are within, in this order; others may stand between."""
    rest = iter(within)
    return all(folder in rest for folder in folders)


def _choose(candidates: list[str], path: str, usual: Path, home: Path) -> str:
    """The file where it usually is, or else the one with the most folders of the path."""
    if (expected := os.path.relpath(usual / path, home)) in candidates:
        return expected
    folders = set(path.split("/")[:-1])
    known = [len(folders.intersection(file.split("/")[:-1])) for file in candidates]
    best = [file for file, number in zip(candidates, known, strict=True) if number == max(known)]
    if len(best) > 1:
        raise _ambiguous(home, f"the image {path} is named by the split file.", f"It may be {best[0]} or {best[1]}.")
    return best[0]


def _ambiguous(home: Path, asked: str, found: str) -> UserError:
    return UserError(f"{home}: {asked}", found, "Move the files that do not belong to this data set elsewhere.")
