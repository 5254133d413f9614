"""The kinds of files that tests/fuzz.py damages: small ones of each, how they are read, and what has to be right."""

import io
import itertools
import json
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import SimpleNamespace

import h5py
import numpy as np
import torch
from make_data import (
    make_abide,
    make_cifar,
    make_clevr,
    make_coop,
    make_corruptions,
    make_folders,
    make_gtsrb,
    make_svhn,
    noise,
    write_lmdb,
)
from PIL import Image
from torchvision.transforms import v2

import cfg
from data.catalog import find_dataset
from data.corruptions import read_corruptions
from data.loaders import build_data
from data.splits import PARTS
from data.transforms import decode
from errors import UserError
from tools.common.checkpoint import load_checkpoint, save_checkpoint
from tools.reporting.receipts import read_receipts

# The file that executed code would write; and what make_data calls pytest's monkeypatch, in a process that is let go.
HERE = SimpleNamespace(proof=Path(), setattr=setattr)
WAYS = range(4)  # to read a data set
FIXED, RANDOM = [v2.Resize((16, 16))], [v2.Resize(16), v2.RandomCrop(12), v2.RandomHorizontalFlip()]


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        make: lays undamaged files out in a folder, which is cfg.data_path; returns those to be damaged.
        look: (damaged file, one of WAYS) -> what was read, by name. Raises AssertionError where a shape, type or range
            is wrong.
        agree: (damaged file, data read before, data read now) -> whether the data from all other files is unchanged.
        mutate: (content, generator) -> damaged content, for half of the mutations; the others know no format.
        hot: content -> important offsets, for half of the mutations that know no format.
        mutations: how many.
    """

    make: Callable[[Path], list[Path]]
    look: Callable[[Path, int], dict]
    agree: Callable[[Path, dict, dict], bool] = lambda file, before, after: True
    mutate: Callable[[bytes, Random], bytes] | None = None
    hot: Callable[[bytes], Iterable[int]] = lambda content: range(min(len(content), 256))
    mutations: int = 300


def equal(a: object, b: object) -> bool:
    """Equality to the bit of tensors, and of tuples and dicts of them. Other values are compared by their text."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(equal, a, b))
    return repr(a) == repr(b)


NUMBERS = [0, 1, -1, 2**7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def damaged(content: bytes, random: Random, hot: Iterable[int] = (), other: bytes = b"") -> bytes:
    """A copy with one to three flaws, different from `content`. One kind of flaw is that it ends like `other`."""
    hot, other = list(hot), other or content

    def place() -> int:
        at = random.choice(hot) if hot and random.random() < 0.5 else random.randrange(len(content))
        return min(at, len(result) - 1)

    result = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 3))):
        if not result:
            break
        at, length = place(), random.choice((1, 4, 16, 64, 512, 4096))
        match random.randrange(9):
            case 0 | 1:
                for _ in range(random.choice((1, 1, 4))):
                    result[place()] ^= 1 << random.randrange(8)
            case 2:
                result[at : at + length] = random.randbytes(len(result[at : at + length]))
            case 3:
                width = random.choice((1, 2, 4, 8))
                number = random.choice((*NUMBERS, len(content), random.getrandbits(16))) % (1 << 8 * width)
                result[at : at + width] = number.to_bytes(width, random.choice(("little", "big")))
            case 4:
                del result[at:]
            case 5:
                result[at:at] = result[at : at + length]
            case 6:
                del result[at : at + length]
            case 7:
                result[at : at + length] = bytes(len(result[at : at + length]))
            case 8:
                result[at:] = other[random.randrange(len(other)) :]
    return bytes(result) if result != content else damaged(content, random, hot, other)


# Data sets: every image of every split, by split and name


def samples(name: str, way: int) -> dict[tuple, tuple[torch.Tensor, int]]:
    """A data set as an experiment reads it; the ways: with or without a cache, training images cut at random or not."""
    cached, train = way % 2, (FIXED, RANDOM)[way // 2]
    splits = find_dataset(name).read()
    folder = cfg.data_path / ".cache"
    how = {"batch_size": 4, "device": torch.device("cpu"), "workers": 0, "cache_folder": folder if cached else None}
    try:
        loaders = build_data(splits, train=train, eval=FIXED, **how)
        return {
            key: sample for part in PARTS if getattr(splits, part) for key, sample in ordered(splits, loaders, part)
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ordered(splits, loaders, part: str) -> Iterable[tuple[tuple, tuple[torch.Tensor, int]]]:
    """((split, image's name, how often it came before), (pixels, label)) of a split, checked."""
    split, loader = getattr(splits, part), getattr(loaders, part)
    torch.manual_seed(0)
    order = torch.randperm(len(split)) if part == "train" else torch.arange(len(split))
    torch.manual_seed(0)
    images, labels = map(torch.cat, zip(*loader, strict=True))
    side = 12 if images.shape[-1] == 12 and part == "train" else 16
    assert images.shape == (len(split), 3, side, side) and images.dtype == torch.float32, (images.shape, images.dtype)
    assert labels.shape == (len(split),) and labels.dtype == torch.int64, (labels.shape, labels.dtype)
    assert images.min() >= 0 and images.max() <= 1 and images.isfinite().all(), (images.min(), images.max())
    assert labels.min() >= 0 and labels.max() < len(splits.class_names), (labels.min(), labels.max())
    seen: dict[str, int] = {}
    for position, image, label in zip(order.tolist(), images, labels.tolist(), strict=True):
        assert label == split.labels[position]
        name = split.name(position)
        seen[name] = seen.get(name, 0) + 1
        yield (part, name, seen[name]), (image, label)


def others_agree(is_of: Callable[[tuple, Path], bool]) -> Callable[[Path, dict, dict], bool]:
    """Whether all samples are as before, except those of the damaged file, which `is_of` names."""

    def agree(file: Path, before: dict, after: dict) -> bool:
        keys = [key for key in before if not is_of(key, file)]
        return all(key in after and equal(before[key], after[key]) for key in keys)

    return agree


# Images


def _bytes_of(image: Image.Image, kind: str, **how) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def image_files() -> dict[str, bytes]:
    """Small images of every format that is read, in several of its encodings."""
    pixels = Image.fromarray(noise(1)).resize((30, 22)).resize((60, 44))
    grey16 = Image.fromarray(np.asarray(pixels.convert("L")).astype(np.uint16) * 257)
    alpha = pixels.copy()
    alpha.putalpha(pixels.convert("L"))
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    return {
        "a.jpg": _bytes_of(pixels, "JPEG", exif=exif),
        "progressive.jpg": _bytes_of(pixels, "JPEG", progressive=True, subsampling=0),
        "cmyk.jpeg": _bytes_of(pixels.convert("CMYK"), "JPEG"),
        "a.png": _bytes_of(pixels, "PNG"),
        "palette.png": _bytes_of(pixels.quantize(16), "PNG", transparency=3),
        "grey16.png": _bytes_of(grey16, "PNG"),
        "alpha.png": _bytes_of(alpha, "PNG"),
        "gif.jpg": _bytes_of(pixels, "GIF", save_all=True, append_images=[alpha]),  # as in Oxford's pets
        "a.bmp": _bytes_of(pixels, "BMP"),
        "rle.bmp": _rle_bmp(),
        "a.webp": _bytes_of(pixels, "WEBP"),
        "lossless.webp": _bytes_of(alpha, "WEBP", lossless=True),
        "a.tif": _bytes_of(pixels, "TIFF"),
        "lzw.tiff": _bytes_of(pixels, "TIFF", compression="tiff_lzw"),
        "deflate.tiff": _bytes_of(grey16, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tiff": _bytes_of(pixels, "TIFF", compression="jpeg"),
        "fax.tiff": _bytes_of(pixels.convert("1"), "TIFF", compression="group4"),
        "a.ppm": _bytes_of(pixels, "PPM"),
    }


def _rle_bmp() -> bytes:
    """60 x 44 pixels in runs, an encoding that Pillow reads and does not write."""
    runs = b"".join(bytes([60, row, 0, 0]) for row in range(44)) + b"\0\1"
    palette = b"".join(bytes([i, 255 - i, i // 2, 0]) for i in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, 60, 44, 1, 8, 1, len(runs), 0, 0, 256, 0)
    start = 14 + len(header) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(runs), 0, 0, start) + header + palette + runs


def png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    """A PNG file whose header says this."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


BOMBS = [(1, 65000), (65000, 1), (3, 2**31 - 1), (2**31 - 1, 1), (9000, 9900), (12000, 12000), (60000, 60000), (0, 5)]
ZEROS = zlib.compress(bytes(30_000_000), 1)  # enough for a picture of 1 bit a pixel and 200 million pixels
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 44\n%%EndComments\n1 0 0 setrgbcolor\n%%EOF\n"


def mutate_image(content: bytes, random: Random) -> bytes:
    """A PNG with right checksums after damage; a header that promises gigapixels; a program in PostScript."""
    match random.randrange(12):
        case 0:
            return POSTSCRIPT
        case 1 | 2:
            shape = random.choice(BOMBS)
            return png(*shape, *random.choice(((8, 2), (1, 0), (16, 6), (8, 3))), zlib.compress(bytes(1000)))
        case 3:
            shape = (9000, 9900) if random.random() < 0.05 else random.choice(BOMBS[:2] + BOMBS[5:7])
            return png(*shape, 1, 0, ZEROS)
    if not content.startswith(b"\x89PNG"):
        return content
    chunks, at = [], 8
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    place = random.randrange(len(chunks))
    kind, body = chunks[place]
    if body:
        chunks[place] = (kind, damaged(body, random))
    random.random() < 0.1 and random.shuffle(chunks)
    return content[:8] + b"".join(_chunk(kind, body) for kind, body in chunks)


def make_images(folder: Path) -> list[Path]:
    """Data sets of two training images and one test image each, so that a mutation does not have to read all."""
    files = []
    for number, (name, content) in enumerate(image_files().items()):
        place = ("train/ant", "train/bee", "test/ant")[number % 3]
        files.append(folder / f"set{number // 3}" / place / name)
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        files[-1].write_bytes(content)
    return files


# Split files


def make_splits(folder: Path) -> list[Path]:
    make_coop(folder, counts={"train": 2, "val": 1, "test": 1})
    make_coop(folder, "mine", "mine/images", "split.json", counts={"train": 2, "test": 1}, ending=".png")
    (folder / "secret.png").write_bytes(_bytes_of(Image.fromarray(noise(9)), "PNG"))  # outside of both
    return [folder / "dtd/split_zhou_DescribableTextures.json", folder / "mine/split.json"]


ODD = [None, True, False, -1, 1, 2, 3, 10**9, 2**63, 10**30, 0.0, 1e308, float("nan"), float("inf"), [], {}, [[]], [0]]
ODD += ["", ".", "..", "/", "x", "\0", "a\0b", "a\nb", "\ud800", "\x1b[2J", "é", "name " * 1000, "a/" * 3000, "dtd"]
ODD += [
    "../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "/dev/stdin",
    "../../secret.png",
    "../images",
    "banded",
    "~root",
]
ODD += ["Pink_Primrose/train_0.jpg", "Pink_Primrose/train_0.png", "Pink_Primrose/../banded/train_0.jpg", "banded"]
ODD += ["train", "test", ["Pink_Primrose/train_0.jpg", 0, "Pink_Primrose"], {"train": []}]


def mutate_split(content: bytes, random: Random) -> bytes:
    """Wrong types, missing and repeated entries, labels and paths that are none, depth, and other encodings."""
    tree = json.loads(content)
    for _ in range(random.choice((1, 1, 2, 3))):
        parent, key = random.choice(list(places(tree)))
        match random.randrange(8):
            case 0 | 1 | 2:
                parent[key] = random.choice(ODD)
            case 3:
                del parent[key]
            case 4 if isinstance(parent, list):
                parent.insert(random.randrange(len(parent) + 1), parent[key])
            case 5:
                other, place = random.choice(list(places(tree)))
                parent[key] = json.loads(json.dumps(other[place]))
            case 6:
                parent[key] = "<deep>"
            case _ if isinstance(parent, dict):
                parent[random.choice(("train", "val", "test", "other", ""))] = parent[key]
        if not tree:
            break
    depth = random.choice((3, 300, 900, 990, 3000, 100_000))
    opened, closed = random.choice((("[", "]"), ('{"a": ', "}")))
    text = json.dumps(tree, ensure_ascii=random.random() < 0.5, indent=random.choice((None, 1)))
    text = text.replace('"<deep>"', opened * depth + "1" + closed * depth)
    return text.encode(random.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig", "utf-7")), "surrogatepass")


def places(tree: dict | list) -> Iterable[tuple]:
    """(container, key) of everything in a tree of dicts and lists."""
    for key, value in list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from places(value)


def look_at_split(file: Path, way: int) -> dict:
    return samples("dtd" if file.parent.name == "dtd" else "mine", way)


def split_agrees(file: Path, before: dict, after: dict) -> bool:
    """Whether each image that is still named has its own pixels, where they are not cut at random."""
    pixels = {path: image for (_, path, _), (image, _) in before.items()}
    known = [(image, pixels[path]) for (_, path, _), (image, _) in after.items() if path in pixels]
    return all(equal(image, own) for image, own in known if image.shape[-1] == own.shape[-1] == 16)


# LMDBs


class Executed:
    """Unpickles as the result of a call that writes the proof."""

    def __reduce__(self):
        return eval, (f"open({str(HERE.proof)!r}, 'w').close() or 0",)


def make_lmdbs(folder: Path) -> list[Path]:
    """Values that lie in the tree and values with pages of their own; enough of them for a branch page."""
    parts = {"train": 12, "val": 2, "test": 6}
    for part, count in parts.items():
        shapes = [(5, 4), (24, 20), (40, 30)]
        images = [_bytes_of(Image.fromarray(noise(i + len(part) * 99, *shapes[i % 3])), "PNG") for i in range(count)]
        write_lmdb(folder / f"mine/{part}.lmdb", [(image, i // 2 % 2) for i, image in enumerate(images)])
    rows = {part: [[f"{part}/{i}.png", i // 2 % 2, "ab"[i // 2 % 2]] for i in range(n)] for part, n in parts.items()}
    (folder / "mine/split.json").write_text(json.dumps(rows))
    return [folder / f"mine/{part}.lmdb" for part in parts]


def lmdb_places(content: bytes) -> list[int]:
    """Where the headers, tables and nodes of the pages lie."""
    found = []
    for page in range(0, len(content), 4096):
        found += range(page, page + 24)
        if content[page + 10] == 8:  # the page that says where the trees are
            found += range(page + 16, page + 168)
        elif content[page + 10] in (1, 2):
            (end,) = struct.unpack_from("<H", content, page + 12)
            nodes = struct.unpack_from(f"<{(end - 16) // 2}H", content, page + 16)
            found += [*range(page + 16, page + end), *(page + node + i for node in nodes for i in range(20))]
    return [place for place in found if place < len(content)]


def mutate_lmdb(content: bytes, random: Random) -> bytes:
    """Pickles that execute code, instead of a value; values of other kinds, numbers and keys of other sizes."""
    evil = pickle.dumps(
        random.choice((Executed(), (b"", Executed()), [Executed()], (Executed(), 0))), random.randrange(6)
    )
    if random.random() < 0.3:  # over a pickle that is there
        at = content.find(b"\x80\x04", random.randrange(len(content)))
        return content[:at] + evil + content[at + len(evil) :] if at > 0 else content
    image = _bytes_of(Image.fromarray(noise(7, 5, 4)), "PNG")
    odd = [
        evil,
        b"",
        b".",
        *map(pickle.dumps, [0, (image, -1), (image, 2**70), (image, 2), (b"", 0), ("x", 0), [image]]),
    ]
    values = [(image, number % 2) for number in range(random.choice((0, 1, 4)))] + [random.choice(odd)]
    values = [value if isinstance(value, bytes) else pickle.dumps(value) for value in values]
    random.shuffle(values)
    keys = [b"0", b"", b"\x80", b"\n\x1b[2J", b"k" * 500, b"k" * 512, b"k" * 5000, 0, None]
    special = {
        "__len__": random.choice([evil, *map(pickle.dumps, (-1, 2**70, True, 1.0, len(values)))]),
        "__keys__": random.choice([evil, *(pickle.dumps([random.choice(keys)] * n) for n in (0, 1, 2, len(values)))]),
    }
    special = {key: value for key, value in special.items() if random.random() < 0.5}
    file = cfg.data_path / "other.lmdb"
    file.unlink(missing_ok=True)
    write_lmdb(file, values, **special)
    return file.read_bytes()


# Other data sets


def make_torchvision(folder: Path) -> list[Path]:
    make_cifar(folder / "cifar10", HERE, each=2)
    make_svhn(folder / "svhn", HERE, 10, 3)
    make_gtsrb(folder / "gtsrb")
    make_clevr(folder)
    scenes = folder / "clevr/CLEVR_v1.0/scenes"
    return [
        folder / "cifar10/cifar-10-batches-py/data_batch_2",
        folder / "cifar10/cifar-10-batches-py/batches.meta",
        folder / "svhn/test_32x32.mat",
        *[folder / "gtsrb/gtsrb/GT-final_test.csv"] * 2,
        *[scenes / "CLEVR_train_scenes.json"] * 4,
    ]


def look_at_torchvision(file: Path, way: int) -> dict:
    return samples(next(name for name in ("cifar10", "svhn", "gtsrb", "clevr") if name in file.parts), way)


def mutate_torchvision(content: bytes, random: Random) -> bytes:
    if content.startswith(b"{"):
        return mutate_split(content, random)
    if content.startswith(b"Name;") or b";ClassId" in content[:100]:
        fields = content.split(b";")
        fields[random.randrange(len(fields))] = random.choice(
            [b"", b"-1", b"43", b"9" * 30, b"nan", b"\xff", b"\0", b'"', b"../x", b"/dev/zero", b"x" * 200_000]
        )
        return b";".join(fields)
    return pickle.dumps(Executed()) if content.startswith(b"\x80") else content


def make_one_abide(folder: Path) -> list[Path]:
    make_abide(folder, patients=20)
    return [
        folder / "abide/abide.hdf5",
        folder / "abide/abide.hdf5",
        folder / "abide/Phenotypic_V1_0b_preprocessed1.csv",
    ]


def hdf5_places(content: bytes) -> Iterable[int]:
    """Where the file is not an array of numbers."""
    if not content.startswith(b"\x89HDF"):
        return range(len(content))
    with h5py.File(io.BytesIO(content)) as file:
        arrays = [file[f"patients/{name}/cc200"].id for name in file["patients"] if "cc200" in file[f"patients/{name}"]]
        taken = sorted((array.get_offset(), array.get_offset() + array.get_storage_size()) for array in arrays)
    starts, ends = [0] + [end for _, end in taken], [start for start, _ in taken] + [len(content)]
    return list(itertools.chain.from_iterable(map(range, starts, ends)))


def mutate_abide(content: bytes, random: Random) -> bytes:
    """Numbers that are none; damage where half of it would hit nothing but numbers."""
    if not content.startswith(b"\x89HDF"):
        fields = content.split(b",")
        fields[random.randrange(len(fields))] = random.choice(
            [b"", b"-1", b"3", b"9" * 30, b"nan", b"1.0", b"\xff", b"\0", b'"', b"\r\n", b"x" * 200_000]
        )
        return b",".join(fields)
    odd = struct.pack("<d", random.choice((float("nan"), float("inf"), -float("inf"), 1e308, 1e39, 0.0)))
    at = len(content) // 2 // 8 * 8
    if random.random() < 0.2:
        return content[:at] + odd * random.choice((1, 40_000)) + content[at + 8 :]
    result = bytearray(content)
    hot = hdf5_places(content)
    for _ in range(random.choice((1, 2, 4))):
        result[random.choice(hot)] = random.choice((0, 1, 2, 127, 128, 255, random.randrange(256)))
    return bytes(result)


# Other files


def make_pixels(folder: Path) -> list[Path]:
    make_folders(folder, "mine", classes=("ant", "bee"), counts={"train": 2, "test": 1})
    look_at_pixels(folder, 0)
    return sorted((folder / "pixels").glob("*.pixels"))


def look_at_pixels(file: Path, way: int) -> dict:
    """The training images cropped at random, the others not, all from the cache."""
    splits = find_dataset("mine").read()
    how = {"batch_size": 4, "device": torch.device("cpu"), "workers": 0, "cache_folder": cfg.data_path / "pixels"}
    loaders = build_data(splits, train=RANDOM, eval=FIXED, **how)
    return dict(itertools.chain.from_iterable(ordered(splits, loaders, part) for part in ("train", "test")))


def make_npy(folder: Path) -> list[Path]:
    make_corruptions(folder / "corrupted")
    return sorted((folder / "corrupted").glob("*.npy"))


def look_at_npy(file: Path, way: int) -> dict:
    found = read_corruptions(cfg.data_path / "corrupted", 3)
    samples = {}
    for name, severities in found.items():
        assert len(severities) == 5
        for severity, split in enumerate(severities):
            for position in range(len(split)):
                image = torch.from_numpy(decode(FIXED, split.open(position)))
                assert image.shape == (16, 16, 3) and image.dtype == torch.uint8 and 0 <= split.labels[position] < 3
                samples[name, severity, position] = image, int(split.labels[position])
    return samples


def npy_agrees(file: Path, before: dict, after: dict) -> bool:
    """Whether the other corruption is as it was; labels apart where it is their file that is damaged."""
    labels = file.name == "labels.npy"
    kept = [key for key in before if key in after and key[0] != file.stem]
    return all(equal(before[key][: 1 if labels else 2], after[key][: 1 if labels else 2]) for key in kept)


def mutate_npy(content: bytes, random: Random) -> bytes:
    """Pickles; a header of other shapes and types; no Python but its literals is in a header."""
    if random.random() < 0.2:
        file = io.BytesIO()
        np.save(file, np.array([Executed()] * 4, dtype=object), allow_pickle=True)
        return file.getvalue()
    end = 10 + int.from_bytes(content[8:10], "little")
    words = [b"(30, 8, 8, 3)", b"|u1", b"<i8", b"(30,)", b"False", b"'shape'", b"descr"]
    odd = [
        b"(2**60,)",
        b"(-1, 8, 8, 3)",
        b"(9999999999, 8, 8, 3)",
        b"()",
        b"True",
        b"|O",
        b">i2",
        b"<f8",
        b"<M8[s]",
        b"|V1",
    ]
    odd += [
        b"(0,)",
        b"(30, 8, 8, 1)",
        b"1" * 50,
        b"[[" * 50,
        b"__import__('os')",
        b"\xff",
        b"'a\\",
        b"1_",
        b"0x",
        b"1if 1else 2",
    ]
    head = content[10:end].replace(random.choice(words), random.choice(odd))
    return content[:8] + len(head).to_bytes(2, "little") + head + content[end:]


def make_checkpoint(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    visual = {"program": torch.arange(600.0).reshape(3, 10, 20), "mask": torch.ones(1, 10, 20, dtype=torch.uint8)}
    mapping = torch.arange(6)
    setup = {"network": "tiny", "dataset": "mine", "class_names": ["a", "b"], "transform": {"size": 16}}
    content = {"visual_prompt_dict": visual, "mapping_sequence": mapping, "epoch": 3, "best_acc": 0.5, "setup": setup}
    save_checkpoint(folder / "ckpt.pth", content)
    torch.save(content, folder / "old.pth", _use_new_zipfile_serialization=False)
    return [folder / "ckpt.pth", folder / "old.pth"]


def look_at_checkpoint(file: Path, way: int) -> dict:
    content = load_checkpoint(file, "Give another file.")
    assert isinstance(content, dict)
    return content


def mutate_checkpoint(content: bytes, random: Random) -> bytes:
    if random.random() < 0.5:
        file = io.BytesIO()
        torch.save({"epoch": Executed()}, file, _use_new_zipfile_serialization=random.random() < 0.5)
        return file.getvalue()
    evil = pickle.dumps(Executed(), 2)
    at = content.find(b"\x80\x02", random.randrange(len(content)))
    return content[:at] + evil + content[at + len(evil) :] if at > 0 else content


def make_receipts(folder: Path) -> list[Path]:
    files = []
    for seed in (7, 8):
        run = folder / f"cnn/ilm_vp/resnet18_dtd_seed{seed}"
        run.mkdir(parents=True)
        place = {"network": "resnet18", "dataset": "dtd", "seed": seed}
        args = place | {
            "epoch": 200,
            "setting": ["lr 0.1"],
            "command": f"python experiments/cnn/ilm_vp.py --seed {seed}",
        }
        accuracies = dict.fromkeys(("test_acc_last", "test_acc_best", "test_acc_at_best_val"), 0.5)
        result = place | accuracies | {"status": "finished", "classes": 47, "test_size": 1692, "epochs": 200}
        for name, content in {"args": args, "result": result | {"method": "cnn/ilm_vp"}}.items():
            (run / f"{name}.json").write_text(json.dumps(content, indent=2))
            files.append(run / f"{name}.json")
    return files


def look_at_receipts(file: Path, way: int) -> dict:
    """The receipts by run; a UserError where one is left out with a note, as where all are."""
    receipts, notes = read_receipts(cfg.data_path)
    for receipt in receipts:
        assert not receipt.finished or 0 <= receipt.result["test_acc_last"] <= 1
        assert all(isinstance(word, str) for word in receipt.command) and receipt.column.label()
    assert len(receipts) + len(notes) == 2
    found = {receipt.path.name: (receipt,) for receipt in receipts}
    if notes:
        assert len(receipts) == 1 and file.parent.name not in found
        raise UserError("Receipts are read.", *notes, f"Mend {file.name}.")
    return found


KINDS = {
    "images": Kind(
        make_images,
        lambda file, way: samples(file.parts[-4], way),
        others_agree(lambda key, file: key[1].endswith("/" + file.name)),
        mutate_image,
        mutations=1000,
    ),
    "splits": Kind(make_splits, look_at_split, split_agrees, mutate_split, mutations=1000),
    "lmdb": Kind(
        make_lmdbs,
        lambda file, way: samples("mine", way),
        others_agree(lambda key, file: key[0] == file.stem),
        mutate_lmdb,
        lmdb_places,
        mutations=1000,
    ),
    "torchvision": Kind(make_torchvision, look_at_torchvision, mutate=mutate_torchvision),
    "abide": Kind(make_one_abide, lambda file, way: samples("abide", way), mutate=mutate_abide, hot=hdf5_places),
    "corruptions": Kind(make_npy, look_at_npy, npy_agrees, mutate_npy),
    "pixels": Kind(make_pixels, look_at_pixels, others_agree(lambda key, file: f"mine-{key[0]}-" in file.name)),
    "checkpoints": Kind(make_checkpoint, look_at_checkpoint, mutate=mutate_checkpoint, hot=lambda content: ()),
    "receipts": Kind(
        make_receipts,
        look_at_receipts,
        others_agree(lambda key, file: key == file.parent.name),
        mutate_split,
    ),
}


def prepare(folder: Path) -> Path:
    """Makes `folder`/data the data folder of this process, and a Ghostscript that tells on whoever runs it.

    Returns:
        The proof: a file that is written where code is executed.
    """
    cfg.data_path, HERE.proof = folder / "data", folder / "proof"
    ghostscript = folder / "bin/gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {HERE.proof}\n")
    ghostscript.chmod(0o755)
    os.environ["PATH"] = f"{ghostscript.parent}:{os.environ['PATH']}"
    return HERE.proof
