"""Which files and folders belong to a data set, in every layout. What is passed over is counted and said."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from errors import UserError, printable

# What Pillow reads of `data.image_file.FORMATS`, by the end of a file's name.
ENDINGS = frozenset(".apng .bmp .gif .jfif .jpe .jpeg .jpg .pbm .pfm .pgm .png .pnm .ppm .tif .tiff .webp".split())
# Image formats that cameras and web sites write and that are not read.
FOREIGN_FORMATS = dict.fromkeys((".heic", ".heif", ".hif"), "HEIC") | {".avif": "AVIF"}
# What file managers, archives and network drives leave in folders, in lower case.
LEFTOVERS = frozenset(
    "__macosx @eadir @recycle #recycle $recycle.bin lost+found __pycache__ thumbs.db ehthumbs.db desktop.ini".split()
)
UNPACKING = ".unpacking"  # ends the name of the folder in which tools/preparing/unpacking.py unpacks an archive
PART_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's: it begins with a dot, or is one of LEFTOVERS, or
    the folder of an archive that is being unpacked."""
    return name.startswith(".") or name.endswith(UNPACKING) or name.lower() in LEFTOVERS


def leads_to_leftover(path: str) -> bool:
    """Whether a relative path has a name in it that `is_leftover`."""
    return any(map(is_leftover, PurePath(path).parts))


def find_parts(names: Iterable[str], where: str) -> dict[str, str]:
    """Which of the names, of folders or of a split file's lists, are the data set's parts: by part, its name.

    Raises:
        UserError: two of the names are of one part.
    """
    found = {}
    for part, known in PART_NAMES.items():
        own = [name for name in known if name in names]
        if len(own) > 1:
            raise UserError(
                f"{where}: one {part} split is expected.",
                f"Found {' and '.join(own)}.",
                f"Keep one of them, called {part}, and rename or remove the other.",
            )
        if own:
            found[part] = own[0]
    return found


class PassedOver:
    """Counts what a reader passes over, and says so in one line.

    Args:
        where: what the line begins with.
        belongs: endings of files that belong beside the images and are not counted.
    """

    def __init__(self, where: str, belongs: tuple[str, ...] = ()):
        self.where, self.belongs, self.counts = where, belongs, Counter()
        self._leftover = ""

    def file(self, path: str, where: str = "") -> None:
        """A file that does not end like an image, or that lies somewhere else than images do."""
        ending = os.path.splitext(path)[1].lower()
        if ending not in self.belongs:
            self.counts[(ending or "without ending") + where] += 1

    def leftover(self, path: str) -> None:
        """A path of which `leads_to_leftover` is true."""
        self._leftover = self._leftover or next(filter(is_leftover, PurePath(path).parts))
        self.counts["leftover"] += 1

    def tell(self) -> None:
        """Prints the line, if anything was passed over."""
        if not self.counts:
            return
        counts = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        words = [f"{count} {ending}" for ending, count in counts if ending != "leftover"]
        if len(words) > 10:
            words = [*words[:10], f"files with {len(words) - 10} other endings"]
        if leftovers := self.counts["leftover"]:
            kind = "leftover" if leftovers == 1 else "leftovers"
            words.append(f"{leftovers} {kind} of other programs, such as {self._leftover}")
        formats = sorted({FOREIGN_FORMATS[ending] for ending in self.counts.keys() & FOREIGN_FORMATS.keys()})
        advice = f" {' and '.join(formats)} cannot be read: convert these images to PNG or JPEG." if formats else ""
        print(printable(f"{self.where}: passed over {', '.join(words)}.{advice}"), flush=True)


def folders_in(folder: Path, passed: PassedOver) -> tuple[str, ...]:
    """The names of the folders in a folder, links to folders too, sorted.

    Raises:
        UserError: the folder cannot be read, or a link in it leads nowhere.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise _unreadable(error) from None
    folders = []
    for name in names:
        if is_leftover(name):
            passed.leftover(name)
        elif os.path.isdir(folder / name):
            folders.append(name)
        else:
            _require_file(folder / name)
            passed.file(name, " beside the class folders")
    return tuple(folders)


def files_below(folder: Path, passed: PassedOver | None = None) -> Iterator[tuple[str, ...]]:
    """The paths, as their parts, of all files below a folder that are no leftovers, sorted within each folder.

    Links to folders are followed. A folder that is met again, as in a loop of links, is not read again.

    Raises:
        UserError: a folder cannot be read.
    """
    seen = set()
    for home, folders, files in os.walk(folder, followlinks=True, onerror=_raise_unreadable):
        status = os.stat(home)
        if (identity := (status.st_dev, status.st_ino)) in seen:
            folders.clear()
            continue
        seen.add(identity)
        for name in filter(is_leftover, folders + files if passed else ()):
            passed.leftover(name)
        folders[:] = sorted(name for name in folders if not is_leftover(name))
        above = Path(home).relative_to(folder).parts
        yield from ((*above, name) for name in sorted(files) if not is_leftover(name))


def images_below(folder: Path, passed: PassedOver) -> list[str]:
    """The paths, relative to the folder, of all files below it that end like an image, sorted by their parts.

    Raises:
        UserError: a folder cannot be read, or a link that does not end like an image leads nowhere. (Of one that does,
            the reader of the images will say that there is no such file.)
    """
    found = []
    for parts in files_below(folder, passed):
        if os.path.splitext(parts[-1])[1].lower() in ENDINGS:
            found.append(parts)
        else:
            _require_file(folder.joinpath(*parts))
            passed.file(parts[-1])
    return ["/".join(parts) for parts in sorted(found)]


def _require_file(path: Path) -> None:
    """Raises a UserError if the path is a link that leads nowhere. A folder with images may have been meant."""
    try:
        path.stat()
    except OSError as error:
        link = f"It is a link to {os.readlink(path)}. " if path.is_symlink() else ""
        found = f"{link}It cannot be read: {error.strerror}."
        raise UserError(f"{path}: it stands among the images.", found, "Correct it, or remove it.") from None


def _raise_unreadable(error: OSError) -> None:
    raise _unreadable(error) from None


def _unreadable(error: OSError) -> UserError:
    asked = f"{error.filename}: the images in this folder are read."
    return UserError(asked, f"It cannot be read: {error.strerror}.", "Correct its permissions, or remove it.")
