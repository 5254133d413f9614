"""The original ILM-VP repository's layout: one LMDB file a split, read without executing what a pickle asks for."""

import io
import pickle
import pickletools
import weakref
from pathlib import Path

import lmdb
from PIL import Image

from data.splits import to_rgb
from errors import UserError

# What Python pickles ints, bytes, lists and tuples with. Nothing here looks up a name, calls, or builds an object.
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
        pickle.UnpicklingError: anything else occurs in `data`, or it is damaged. Nothing of it has been executed.
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


class _Reader:
    """An open LMDB file, shared by all that read it in this process: LMDB admits one environment a file and process.

    A forked process may go on using it: without locks and read-only it is no more than a mapped file.

    Raises:
        lmdb.Error: it is none, or cut off: its pages are mapped, and touching one that is missing ends the process.
    """

    def __init__(self, path: Path):
        self.environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False, create=False)
        if (self.environment.info()["last_pgno"] + 1) * self.environment.stat()["psize"] > path.stat().st_size:
            self.environment.close()
            raise lmdb.CorruptedError("the file is cut off")


_readers: "weakref.WeakValueDictionary[Path, _Reader]" = weakref.WeakValueDictionary()


class LmdbImages:
    """Images and labels of one `train.lmdb`, `val.lmdb` or `test.lmdb`.

    `__len__` holds a pickled int, `__keys__` a pickled list of keys, and each key (encoded image bytes, int label).

    Raises:
        UserError: the file is no such LMDB, or holds other pickled types.
    """

    def __init__(self, path: Path):
        self.path = path
        self._reader: _Reader | None = None
        try:
            count, self.keys = self._value(b"__len__"), self._value(b"__keys__")
            if type(count) is not int or type(self.keys) is not list or {type(key) for key in self.keys} - {bytes}:
                raise pickle.UnpicklingError("__len__ is no int or __keys__ no list of bytes")
            if count != len(self.keys):
                raise pickle.UnpicklingError(f"__len__ is {count}, __keys__ holds {len(self.keys)}")
            self.labels = [self._image_and_label(index)[1] for index in range(count)]
        except (lmdb.Error, pickle.UnpicklingError) as error:
            raise UserError(
                f"{path}: an LMDB of the original ILM-VP repository is expected.",
                f"It cannot be read: {error}.",
                "Copy it again from where it came from.",
            ) from None

    def _value(self, key: bytes) -> object:
        if self._reader is None:
            self._reader = _readers.get(self.path.resolve()) or _Reader(self.path)
            _readers[self.path.resolve()] = self._reader
        with self._reader.environment.begin() as transaction:
            data = transaction.get(key)
        if data is None:
            raise pickle.UnpicklingError(f"there is no key {key!r}")
        try:
            return plain_loads(data)
        except pickle.UnpicklingError as error:
            raise pickle.UnpicklingError(f"key {key!r}: {error}") from None

    def _image_and_label(self, index: int) -> tuple[bytes, int]:
        value = self._value(self.keys[index])
        if type(value) is not tuple or tuple(map(type, value)) != (bytes, int):
            raise pickle.UnpicklingError(f"key {self.keys[index]!r} is no (bytes, int)")
        return value

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_reader": None}

    def open(self, index: int) -> Image.Image:
        with Image.open(io.BytesIO(self._image_and_label(index)[0])) as image:
            return to_rgb(image)

    def name(self, index: int) -> str:
        return f"{self.path.name} key {self.keys[index].decode(errors='backslashreplace')}"

    def stamp(self, index: int) -> tuple:
        status = self.path.stat()
        return (str(self.path), self.keys[index].hex(), status.st_size, status.st_mtime_ns)
