"""The types of flags. Each function converts the text that was typed, or says what is wrong with it."""

import argparse
import os
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path, PurePath

import cfg
from tools.common.processes import launched


def whole_number_in(least: int, most: float = float("inf")) -> Callable[[str], int]:
    """The type of a whole number from `least` to `most`."""
    limits = f"from {least}" + (f" to {most}" if most < float("inf") else "")

    def convert(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"a whole number {limits} is needed, not {text!r}")
        return int(text)

    return convert


whole_number, positive_int = whole_number_in(0), whole_number_in(1)


def auto_or_whole_number(text: str) -> int | None:
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"auto or a whole number from 0 is needed, not {text!r}")
    return None if text == "auto" else int(text)


def auto_or_gigabytes(text: str) -> float | None:
    return None if text == "auto" else positive_float(text)


def seed_number(text: str) -> int:
    if whole_number(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"a whole number below 2^63 is needed, not {text}")
    return int(text)


def positive_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 is needed, not {text!r}")
    return value


def number_in(least: float, most: float) -> Callable[[str], float]:
    """The type of a number from `least`, which is above 0, to `most`."""

    def convert(text: str) -> float:
        if not least <= positive_float(text) <= most:
            raise argparse.ArgumentTypeError(f"a number from {least:g} to {most:g} is needed, not {text!r}")
        return float(text)

    return convert


def pixel_distance(text: str) -> float:
    """The type of --eps: `4/255`, `0.0157`."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(-1)
    if not 0 <= value <= 1:
        found = f"a number from 0 to 1 is needed, such as 4/255 or 0.0157, not {text!r}"
        raise argparse.ArgumentTypeError(found)
    return float(value)


def fraction(text: str) -> float:
    if positive_float(text) > 1:
        raise argparse.ArgumentTypeError(f"a fraction above 0 and at most 1 is needed, not {text!r}")
    return float(text)


def zero_or_fraction(text: str) -> float:
    return 0.0 if text.strip("0") in ("", ".") else fraction(text)


def device(text: str):
    """The torch.device. `auto` is CUDA if there is one, else the CPU. With torchrun each process has its own GPU."""
    import torch  # late: a misspelt flag should not wait for it

    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    if launched() and text != "cpu":
        if text != "cuda":
            raise argparse.ArgumentTypeError(f"auto, cuda or cpu is needed with torchrun, not {text!r}")
        text = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        chosen = torch.device(text)
        torch.zeros(1, device=chosen).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        kind, missing = text.partition(":")[0], isinstance(error, NotImplementedError | ImportError)
        # torch lists all its backends then, on hundreds of lines
        reason = f"this PyTorch, or this machine, has no {kind}" if missing else str(error).splitlines()[0][:200]
        raise argparse.ArgumentTypeError(f"{text!r} is not available here ({reason}); try cpu") from None
    return chosen


def precision(text: str) -> str:
    if text not in ("auto", "float32", "bfloat16", "float16"):
        raise argparse.ArgumentTypeError(f"auto, float32, bfloat16 or float16 is needed, not {text!r}")
    return text


def dataset_name(text: str) -> str:
    """The one name of a data set: `base` for `base/`, `./base` and the path of the folder `base` in data_path."""
    name = PurePath(os.path.normpath(text))
    return (name.relative_to(cfg.data_path) if name.is_relative_to(cfg.data_path) else name).as_posix()


def tag_or_file(text: str) -> str:
    """A file's absolute path, which is the same in every working directory. Other texts stay as they are."""
    return str(Path(text).resolve()) if os.path.isfile(text) else text


def split_network(text: str) -> tuple[str, str]:
    """The two halves of a --network with files of one's own: (`timm:NAME=` or `local-dir:`, path). Else (text, "")."""
    sign = "=" if text.startswith("timm:") else ":" if text.startswith("local-dir:") else None
    head, found, path = text.partition(sign) if sign else (text, "", "")
    return head + found, path


_ADDRESS = re.compile(r"https?://(\[[0-9a-fA-F:]+\]|[\w.-]+)(:(?P<port>\d{1,5}))?(/[!$->A-~]*)?", re.ASCII)


def network(text: str) -> str:
    """A --network whose file or folder has its absolute path, which is the same in every working directory.

    The address of a service must hold no secret, since commands stand in logs and receipts.
    """
    address = _ADDRESS.fullmatch(text)
    if text.startswith(("http:", "https:")) and not (address and int(address["port"] or 0) < 2**16):
        wanted = "https://MACHINE/PATH, or http://MACHINE:PORT/PATH, in ASCII, without user, password or ? is needed"
        raise argparse.ArgumentTypeError(f"{wanted}; a key comes from the environment variable VP_SERVICE_KEY")
    head, path = split_network(text)
    if head.endswith(("=", "local-dir:")) and not os.path.exists(path):
        raise argparse.ArgumentTypeError(f"{path or 'the path'}: there is no such file or folder")
    return head + str(Path(path).resolve()) if path else text


def new_file(*endings: str) -> Callable[[str], Path]:
    """The type of a file that a command writes: one of these endings, in a folder that is there."""

    def convert(text: str) -> Path:
        path = Path(text)
        if path.suffix.lower() not in endings:
            raise argparse.ArgumentTypeError(f"a name that ends with {' or '.join(endings)} is needed, not {text!r}")
        if not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"{text!r}: there is no folder {path.parent}")
        return path

    return convert


def text_template(text: str) -> str:
    if text.count("{}") != 1:
        raise argparse.ArgumentTypeError(f"a text with one {{}} for the class name is needed, not {text!r}")
    return text
