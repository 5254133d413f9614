"""The original repository's LMDBs: damaged ones are reported, and no code in a pickle is executed."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from random import Random

import lmdb
import numpy as np
import pytest
from make_data import encoded, make_cifar, make_lmdb, noise, write_lmdb

import cfg
from data.catalog import find_dataset
from data.lmdb_file import DamagedLmdb, find_values
from data.lmdb_images import LmdbImages, plain_loads
from errors import UserError

IMAGE = encoded(noise(0, 3, 2))


def message_of(path: Path) -> str:
    with pytest.raises(UserError) as error:
        LmdbImages(path)
    assert str(path) in str(error.value)
    return str(error.value)


PLAIN = [
    0,
    -1,
    255,
    65536,
    2**31,
    -(2**70),
    b"",
    b"x" * 300,
    b"x" * 70000,
    [],
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
]
PLAIN += [[b"0", b"1"], (IMAGE, 3), [(1, [b"2", ()])], list(range(2000)), [str(i).encode() for i in range(200)]]


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_plain_values_are_read(protocol):
    for value in PLAIN:
        assert plain_loads(pickle.dumps(value, protocol)) == value


class Executed:
    """Unpickles as the result of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.content = function, arguments

    def __reduce__(self):
        return self.content


def payloads(proof: Path) -> dict[str, bytes]:
    """Pickles that write the file `proof` when they are loaded."""
    code = f"open({str(proof)!r}, 'w').close()"
    pickles = {}
    for protocol in range(6):
        pickles[f"os.system {protocol}"] = pickle.dumps(Executed(os.system, f"touch {proof}"), protocol)
        pickles[f"eval {protocol}"] = pickle.dumps(Executed(eval, code), protocol)
        pickles[f"in a list {protocol}"] = pickle.dumps([b"0", Executed(exec, code)], protocol)
        pickles[f"in a tuple {protocol}"] = pickle.dumps((IMAGE, Executed(eval, f"{code} or 0")), protocol)
        pickles[f"deep {protocol}"] = pickle.dumps(([((Executed(eval, code),),)], 3), protocol)
        pickles[f"global of a global {protocol}"] = pickle.dumps(
            Executed(Executed(getattr, Path(proof), "touch").__reduce__()[0], Path(proof), "name"), protocol
        ) + pickle.dumps(1)
    text = code.encode()
    pickles["by hand: REDUCE"] = b"cbuiltins\neval\n(V" + text + b"\ntR."
    pickles["by hand: INST"] = b"(V" + text + b"\nibuiltins\neval\n."
    pickles["by hand: OBJ"] = b"(cbuiltins\neval\nV" + text + b"\no."
    pickles["by hand: after plain values"] = b"\x80\x04]K\x01a0cbuiltins\neval\n(V" + text + b"\ntR."
    pickles["by hand: nested name"] = b"\x80\x04\x8c\x02os\x8c\x06system\x93(V" + f"touch {proof}".encode() + b"\ntR."
    return pickles


NAMES = list(payloads(Path("proof")))
HARMLESS = {name for name in NAMES if name.startswith("global of")}  # asks for names, but writes nothing


@pytest.mark.parametrize("name", NAMES)
def test_malicious_pickle_is_refused(tmp_path, name):
    proof = tmp_path / "proof"
    payload = payloads(proof)[name]
    with pytest.raises(pickle.UnpicklingError):
        plain_loads(payload)
    for key, values, special in (
        ("0", [payload], {}),
        ("__len__", [(IMAGE, 0)], {"__len__": payload}),
        ("__keys__", [(IMAGE, 0)], {"__keys__": payload}),
    ):
        path = tmp_path / f"{key}.lmdb"
        write_lmdb(path, values, **special)
        assert f"key b'{key}'" in message_of(path)
    assert not proof.exists()
    pickle.loads(payload)  # the payload does work, on those who load it
    assert proof.exists() is (name not in HARMLESS)


@pytest.mark.parametrize(
    "value",
    ["text", 1.5, None, True, {}, {1: 2}, set(), bytearray(b"x"), np.int64(3), np.zeros(2), np.bool_, len, Path("x")],
    ids=repr,
)
def test_other_types_are_refused(value):
    for protocol in range(2, 6):
        with pytest.raises(pickle.UnpicklingError):
            plain_loads(pickle.dumps(value, protocol))


def test_protocol_2_is_refused_cleanly(tmp_path):
    """It pickles bytes as a call of _codecs.encode."""
    make_lmdb(tmp_path, protocol=2)
    message = message_of(tmp_path / "dtd/train.lmdb")
    assert "key b'__keys__'" in message and "GLOBAL" in message and "Copy it again from its source" in message


# the protocol 3 pickle of b"0", which asks for a memo of 4 million entries
LARGE_MEMO = b"\x80\x03C\x010r\x00\x00\x40\x00."


def test_damaged_pickles():
    whole = pickle.dumps((IMAGE, 3), 4)
    for length in range(len(whole)):
        with pytest.raises(pickle.UnpicklingError):
            plain_loads(whole[:length])
    for data in (b".", b"]a.", b"0.", b"h\x05.", b"\x80\xff.", b"\x8e" + b"\xff" * 8 + b".", LARGE_MEMO):
        with pytest.raises(pickle.UnpicklingError):
            plain_loads(data)


# the file's values, its __len__ and __keys__, words of the message
MISTAKES = [
    ([(IMAGE, 0)], {"__len__": pickle.dumps(2)}, ["__len__ is 2", "__keys__ holds 1"]),
    ([(IMAGE, 0)], {"__len__": pickle.dumps(-1), "__keys__": pickle.dumps([])}, ["__len__ is -1"]),
    ([(IMAGE, 0)], {"__len__": pickle.dumps([1])}, ["__len__ is no int"]),
    ([(IMAGE, 0)], {"__keys__": pickle.dumps((b"0",))}, ["__keys__ no list of bytes"]),
    ([(IMAGE, 0)], {"__keys__": pickle.dumps([0])}, ["__keys__ no list of bytes"]),
    ([(IMAGE, 0)], {"__keys__": pickle.dumps([b"7"])}, ["there is no key b'7'"]),
    ([(IMAGE, 0)], {"__keys__": pickle.dumps([b""])}, ["cannot be read"]),
    ([(IMAGE, 0), [IMAGE, 1]], {}, ["key b'1'", "(bytes, int)"]),
    ([(IMAGE, 0, 1)], {}, ["key b'0'", "(bytes, int)"]),
    ([(0, IMAGE)], {}, ["key b'0'", "(bytes, int)"]),
    ([(IMAGE, b"0")], {}, ["key b'0'", "(bytes, int)"]),
    ([b"no pickle"], {}, ["key b'0'"]),
    ([(IMAGE, 2**70)], {}, ["key b'0'", "(bytes, int)"]),
    ([(IMAGE, 0)], {"__keys__": pickle.dumps([b"\n" * 5000])}, ["there is no key b'\\n\\n", "\\n'..."]),
]


@pytest.mark.parametrize("values, special, words", MISTAKES)
def test_mistakes(tmp_path, values, special, words):
    write_lmdb(tmp_path / "train.lmdb", values, **special)
    message = message_of(tmp_path / "train.lmdb")
    for word in words:
        assert word in message


def test_not_an_lmdb(tmp_path):
    for number, content in enumerate((b"", b"hello" * 2000, b"\0" * 10000)):
        (tmp_path / f"{number}.lmdb").write_bytes(content)
        message_of(tmp_path / f"{number}.lmdb")
    with lmdb.open(str(tmp_path / "other.lmdb"), subdir=False) as environment, environment.begin(write=True) as to:
        to.put(b"x", b"y")
    assert "there is no key b'__len__'" in message_of(tmp_path / "other.lmdb")


@pytest.mark.parametrize("seed", range(12))
def test_values_are_those_that_lmdb_gives(tmp_path, seed):
    """Short and long keys, values inside of a page and outside, deleted and replaced ones, trees of several levels."""
    random, path = Random(seed), tmp_path / "other.lmdb"
    how = {"subdir": False, "map_size": 1 << 28, "sync": False}
    with lmdb.open(str(path), **how, writemap=seed % 3 == 0) as environment:
        for count in random.choices((1, 10, 200, 1500), k=seed % 4):
            with environment.begin(write=True) as to:
                for _ in range(count):
                    key = (
                        random.randbytes(random.choice((1, 8, 100, 511))) if seed % 2 else b"%d" % random.randrange(300)
                    )
                    length = random.choice((0, 1, 1000, 2030, 2040, 4080, 4081, 9000))
                    to.delete(key) if random.random() < 0.3 else to.put(key, random.randbytes(length))
    content = path.read_bytes()
    found = {key: content[offset : offset + length] for key, (offset, length) in find_values(path).items()}
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment, environment.begin() as at:
        assert found == dict(at.cursor())


def test_tables_by_name_are_refused(tmp_path):
    with lmdb.open(str(tmp_path / "other.lmdb"), subdir=False, max_dbs=1) as environment:
        environment.open_db(b"table")
    with pytest.raises(DamagedLmdb):
        find_values(tmp_path / "other.lmdb")


def test_lmdb_cut_off(tmp_path):
    """A copy that broke off: LMDB maps the file, and reading beyond its end kills the process (SIGBUS)."""
    write_lmdb(tmp_path / "train.lmdb", [(bytes(20000), 0)] * 20)
    content = (tmp_path / "train.lmdb").read_bytes()
    (tmp_path / "cut.lmdb").write_bytes(content[: len(content) // 2])
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).resolve().parent.parent)!r})
from pathlib import Path
from data.lmdb_file import DamagedLmdb, find_values
from data.lmdb_images import LmdbImages
try: LmdbImages(Path(sys.argv[1]))
except Exception as error: print(type(error).__name__, error)
"""
    result = subprocess.run([sys.executable, "-c", script, tmp_path / "cut.lmdb"], capture_output=True, text=True)
    assert result.returncode == 0, f"return code {result.returncode}"
    assert "UserError" in result.stdout and "cut.lmdb" in result.stdout


def test_split_without_its_lmdb(tmp_path, monkeypatch):
    monkeypatch.setattr(cfg, "data_path", tmp_path)
    make_lmdb(tmp_path)
    (tmp_path / "dtd/val.lmdb").unlink()
    with pytest.raises(UserError, match=r"val\.lmdb"):
        find_dataset("dtd").read()


# labels in train.lmdb where split.json lists 0 1 2 0 1 2 0 1 2; words of the message
OTHER_LABELS = {
    "shifted by one": ([1, 2, 0] * 3, ["9 of 9", "Entry 0 is label 0 (Pink_Primrose) in split.json, and label 1 in"]),
    "another order": ([0, 1, 2] * 2 + [0, 2, 1], ["2 of 9", "Entry 7 is label 1 (banded) in split.json, and label 2"]),
    "one without a name": ([0, 1, 2] * 2 + [0, 1, 3], ["1 of 9", "Entry 8", "label 3 in train.lmdb"]),
    "a negative one": ([-1, 1, 2] * 3, ["3 of 9", "label -1 in train.lmdb"]),
    "more": ([0, 1, 2] * 9, ["split.json lists 9 images, train.lmdb holds 27"]),
    "fewer": ([0, 1, 2], ["split.json lists 9 images, train.lmdb holds 3"]),
}


@pytest.mark.parametrize("labels, words", OTHER_LABELS.values(), ids=OTHER_LABELS)
def test_labels_are_those_of_the_split_file(data_path, labels, words):
    """Else the map would print the names of other classes."""
    make_lmdb(data_path)
    write_lmdb(data_path / "dtd/train.lmdb", [(IMAGE, label) for label in labels])
    with pytest.raises(UserError) as error:
        find_dataset("dtd").read()
    for word in [str(data_path / "dtd/train.lmdb"), *words]:
        assert word in str(error.value)


def test_lmdb_of_a_part_that_the_split_file_lacks(data_path):
    make_lmdb(data_path, counts={"train": 1, "test": 1})
    write_lmdb(data_path / "dtd/val.lmdb", [(IMAGE, 0)])
    with pytest.raises(UserError, match=r"split\.json lists 0 images, val\.lmdb holds 1"):
        find_dataset("dtd").read()


def test_lmdbs_that_are_folders(data_path):
    """`train.lmdb/data.mdb`; a folder's own time does not tell that the file in it has changed."""
    expected = make_lmdb(data_path)
    for part, samples in expected.items():
        (data_path / f"dtd/{part}.lmdb").unlink()
        write_lmdb(data_path / f"dtd/{part}.lmdb", [(encoded(p), label) for p, label in samples], subdir=True)
    splits = find_dataset("dtd").read()
    for part in expected:
        split = getattr(splits, part)
        assert split.labels.tolist() == [label for _, label in expected[part]]
        np.testing.assert_array_equal(split.open(1), expected[part][1][0])
    assert splits.val.name(1) == "val.lmdb key 1"
    before = splits.test.source.stamp(0)
    os.utime(data_path / "dtd/test.lmdb/data.mdb", ns=(0, 0))
    assert find_dataset("dtd").read().test.source.stamp(0) != before
    (data_path / "dtd/train.lmdb/data.mdb").unlink()
    with pytest.raises(UserError, match=r"data\.mdb"):
        find_dataset("dtd").read()


def test_cifar_of_another_checksum_is_not_unpickled(tmp_path, monkeypatch):
    monkeypatch.setattr(cfg, "data_path", tmp_path)
    make_cifar(tmp_path, monkeypatch)
    for file in ("data_batch_3", "test_batch", "batches.meta"):
        path = tmp_path / "cifar-10-batches-py" / file
        content = path.read_bytes()
        path.write_bytes(pickle.dumps(Executed(os.system, f"touch {tmp_path / 'proof'}")))
        with pytest.raises(UserError):
            find_dataset("cifar10").read()
        path.write_bytes(content)
    assert not (tmp_path / "proof").exists()
    assert len(find_dataset("cifar10").read().train) == 100
