"""Paths and commands as a user types them."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def from_here(path: Path) -> str:
    """The path from the working directory, or the path itself if there is none: Windows has none to another drive."""
    try:
        return os.path.relpath(path)
    except ValueError:
        return str(path)


def in_shell(words: Sequence[str]) -> str:
    """A command to type, with the quotes of cmd and PowerShell on Windows, and of POSIX shells elsewhere."""
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def as_typed(command: str) -> str:
    """`in_shell` of a command from a receipt: receipts have the quotes of POSIX shells on every machine."""
    return in_shell(shlex.split(command))
