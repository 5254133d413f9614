"""Where the values of an LMDB file lie.

LMDB's own library maps the file into memory and trusts it: a damaged or missing page ends the interpreter. So the pages
are read and checked here, as LMDB 0.9 writes them on 64-bit little-endian machines (mdb.c). The first two are meta
pages, and the newer one names the root of a tree. The tree's branch pages hold keys and further pages. Its leaf pages
hold keys and values. A value too long for a leaf page has pages of its own, one after the other.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# A page's number; its kind; how many pages a long value has, or (in the first two bytes) where the list of nodes ends.
_PAGE = struct.Struct("<Q2xHI")
# After the header of a meta page: magic, version, size of pages, entries, root, transaction.
_META = struct.Struct("<16xII16xI76xQQ8xQ")
# Length of the value, where it is, length of the key. The key follows. In a branch the first two are a page's number.
_NODE = struct.Struct("<IHH")
_NUMBER = struct.Struct("<Q")
_MAGIC, _VERSION, _NO_ROOT = 0xBEEFC0DE, 1, 2**64 - 1
_BRANCH, _LEAF, _LONG = 1, 2, 4  # kinds of pages
_INSIDE, _OUTSIDE = 0, 1  # where a value is: in the leaf page after its key, or in pages of its own


class DamagedLmdb(Exception):
    """The file is not an LMDB with one value for each key, or one of its pages is damaged."""


def find_values(path: Path) -> dict[bytes, tuple[int, int]]:
    """(offset, length) in bytes of the value of every key; all values lie inside the file.

    Raises:
        DamagedLmdb: the file is not an LMDB, or not whole.
        OSError: the file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        try:
            return _Pages(file).values()
        except struct.error:
            raise DamagedLmdb("it is cut off or damaged, or no LMDB") from None


class _Pages:
    """The pages of an open file. Each is used once, so that a damaged tree comes to an end."""

    def __init__(self, file: BinaryIO):
        self.file, self.length = file, os.fstat(file.fileno()).st_size
        self.used: set[int] = set()
        self.size, *first = self._meta(0)
        _, *second = self._meta(self.size)
        _, self.entries, self.root = max(first, second)

    def _meta(self, offset: int) -> tuple[int, int, int, int]:
        """Size of pages, transaction, entries, root."""
        magic, version, size, entries, root, transaction = _META.unpack(self._read(offset, _META.size))
        if (magic, version) != (_MAGIC, _VERSION) or not _META.size <= size <= 65536:
            raise DamagedLmdb("it does not begin like an LMDB")
        return size, transaction, entries, root

    def _read(self, offset: int, length: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(length)

    def _open(self, number: int, length: int, *kinds: int) -> tuple[bytes, int, int]:
        """The first `length` bytes of a page, its kind, and the last number of its header."""
        if number in self.used:
            raise DamagedLmdb(f"page {number} is used twice")
        if (number + 1) * self.size > self.length:
            raise DamagedLmdb(f"page {number} is missing: it is cut off")
        self.used.add(number)
        content = self._read(number * self.size, length)
        own_number, kind, last = _PAGE.unpack_from(content)
        if own_number != number or kind not in kinds:
            raise DamagedLmdb(f"page {number} is damaged")
        return content, kind, last

    def values(self) -> dict[bytes, tuple[int, int]]:
        found: dict[bytes, tuple[int, int]] = {}
        pending = [self.root] if self.root != _NO_ROOT else []
        while pending:
            number = pending.pop()
            content, kind, last = self._open(number, self.size, _BRANCH, _LEAF)
            for key, low, high, offset in _nodes(content, last & 0xFFFF):
                if kind == _BRANCH:
                    pending.append(low | high << 32)
                elif high == _INSIDE and offset + low <= self.size:
                    found[key] = number * self.size + offset, low
                elif high == _OUTSIDE:
                    found[key] = self._outside(*_NUMBER.unpack_from(content, offset), low)
                else:
                    raise DamagedLmdb(f"page {number} is damaged")
        if len(found) != self.entries:
            raise DamagedLmdb(f"it should have {self.entries} entries, {len(found)} are found")
        return found

    def _outside(self, number: int, length: int) -> tuple[int, int]:
        """Offset and length of a value that has pages of its own; it begins after the header of the first."""
        _, _, pages = self._open(number, _PAGE.size, _LONG)
        if _PAGE.size + length > pages * self.size or (number + pages) * self.size > self.length:
            raise DamagedLmdb(f"the {length} bytes from page {number} on are not all there")
        return number * self.size + _PAGE.size, length


def _nodes(page: bytes, end: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Key, low and high half of the number, and the offset of the key's end, of each node of a page."""
    for (offset,) in struct.iter_unpack("<H", page[_PAGE.size : end]):
        low, high, key_length = _NODE.unpack_from(page, offset)
        begin = offset + _NODE.size
        if begin + key_length > len(page):
            raise struct.error
        yield page[begin : begin + key_length], low, high, begin + key_length
