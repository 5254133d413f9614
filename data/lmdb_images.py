"""The layout of the original ILM-VP repository: one LMDB file for each split. No pickle is executed."""

import io
import pickle
import pickletools
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from data.image_file import open_rgb
from data.lmdb_file import DamagedLmdb, find_values
from errors import UserError

# Python pickles ints, bytes, lists and tuples with these. None of them looks up a name, calls, or builds an object.
_PLAIN_OPCODES = frozenset(
    "PROTO FRAME STOP MARK INT BININT BININT1 BININT2 LONG LONG1 LONG4 SHORT_BINBYTES BINBYTES BINBYTES8 EMPTY_LIST"
    " LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET".split()
)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def plain_loads(data: bytes) -> object:
    """Unpickles ints, bytes, lists and tuples.

    Raises:
        pickle.UnpicklingError: `data` holds anything else, or is damaged. Nothing in it has been executed.
    """
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name not in _PLAIN_OPCODES:
                raise pickle.UnpicklingError(f"it holds more than ints, bytes, lists and tuples ({opcode.name})")
            if opcode.name == "LONG_BINPUT" and argument > len(data):  # would reserve memory for that many entries
                raise pickle.UnpicklingError("it is damaged (a memo entry out of range)")
        return _PlainUnpickler(io.BytesIO(data)).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise pickle.UnpicklingError(f"it is damaged ({error})") from None


def _shown(key: bytes) -> str:
    return repr(key) if len(key) <= 100 else f"{key[:100]!r}..."


class LmdbImages:
    """Images and labels of one `train.lmdb`, `val.lmdb` or `test.lmdb`: a file, or a folder with `data.mdb`.

    `__len__` holds a pickled int, `__keys__` a pickled list of keys, and each key (encoded image bytes, int label).

    Raises:
        UserError: the file is not such an LMDB, or holds other pickled types.
    """

    def __init__(self, path: Path):
        self._shown = path.name
        self.path = path / "data.mdb" if path.is_dir() else path
        try:
            self._values = find_values(self.path)
            count, self.keys = self._value(b"__len__"), self._value(b"__keys__")
            if type(count) is not int or type(self.keys) is not list or {type(key) for key in self.keys} - {bytes}:
                raise pickle.UnpicklingError("__len__ is no int or __keys__ no list of bytes")
            if count != len(self.keys):
                raise pickle.UnpicklingError(f"__len__ is {count}, __keys__ holds {len(self.keys)}")
            self.labels = [self._image_and_label(index)[1] for index in range(count)]
        except (OSError, DamagedLmdb, pickle.UnpicklingError) as error:
            raise UserError(
                f"{path}: an LMDB of the original ILM-VP repository is expected.",
                f"It cannot be read: {error}.",
                "Copy it again from its source.",
            ) from None

    def _value(self, key: bytes) -> object:
        if key not in self._values:
            raise pickle.UnpicklingError(f"there is no key {_shown(key)}")
        offset, length = self._values[key]
        with self.path.open("rb", buffering=0) as file:
            file.seek(offset)
            data = file.read(length)
        try:
            return plain_loads(data)
        except pickle.UnpicklingError as error:
            raise pickle.UnpicklingError(f"key {_shown(key)}: {error}") from None

    def _image_and_label(self, index: int) -> tuple[bytes, int]:
        value = self._value(self.keys[index])
        if type(value) is not tuple or tuple(map(type, value)) != (bytes, int) or value[1].bit_length() > 63:
            raise pickle.UnpicklingError(f"key {_shown(self.keys[index])} is no (bytes, int)")
        return value

    def open(self, index: int) -> Image.Image:
        return open_rgb(io.BytesIO(self._image_and_label(index)[0]))

    def name(self, index: int) -> str:
        return f"{self._shown} key {self.keys[index].decode(errors='backslashreplace')}"

    def stamp(self, index: int) -> tuple:
        status = self.path.stat()
        where = (str(self.path), self.keys[index].hex())
        return (*where, status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)

    def identities(self, indices: Sequence[int]) -> list[tuple]:
        return [(self.keys[index].hex(), zlib.crc32(self._image_and_label(index)[0])) for index in indices]
