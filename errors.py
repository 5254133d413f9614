"""The errors that a user can correct. Every package raises them; `tools/common/command.py` prints them."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A user's mistake: what was asked, what was found, what to type next. It ends a command with exit code 2."""

    exit_code = 2

    def __init__(self, asked: str, found: str, next_step: str):
        self.asked, self.found, self.next_step = map(_shown, (asked, found, next_step))
        super().__init__(f"{self.asked}\n{self.found}\n{self.next_step}")


def _shown(text: str) -> str:
    """The text with control characters, as damaged files hold them, written as escapes: a terminal can show it."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class RunError(UserError):
    """A run that had to stop although its command was correct (loss not finite, disk full). Exit code 1."""

    exit_code = 1


class Interrupted(UserError):
    """Ctrl-C, with the exit code that shells give it."""

    exit_code = 130


def unknown_name(flag: str, name: str, valid: Iterable[str], hint: str = "") -> UserError:
    """The error for a `name` that is not one of the `valid` ones. It lists these and suggests the nearest."""
    valid = list(valid)
    lower = {known.lower(): known for known in valid}
    nearest = get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    next_step = f"Did you mean {flag} {lower[nearest[0]]}?" if nearest else f"Choose one of them: {flag} {valid[0]}"
    found = f"Known: {', '.join(valid)}."
    return UserError(f"{flag} {name}: there is no such name.", found, f"{next_step} {hint}".strip())


def prepare_command(dataset: str) -> str:
    """The command that downloads a data set. Errors about missing data end with it."""
    return f"python tools/prepare_data.py {dataset}"
