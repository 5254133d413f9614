"""The errors that a user can correct. Every package raises them; `tools/common/command.py` prints them."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class UserError(Exception):
    """A user's mistake: what was asked, what was found, what to type next. It ends a command with exit code 2."""

    exit_code = 2

    def __init__(self, asked: str, found: str, next_step: str):
        self.asked, self.found, self.next_step = map(_shown, (asked, found, next_step))
        super().__init__(f"{self.asked}\n{self.found}\n{self.next_step}")


def _shown(text: str) -> str:
    """The lines of a text, each `printable`."""
    return "\n".join(map(printable, text.split("\n")))


def printable(text: str) -> str:
    """One line of text, from a file or of a file's name, that a terminal and a figure can show.

    Control characters, line breaks, surrogates (of names that are not UTF-8) and changes of the writing direction
    become escapes such as `\\x1b`. Letters of all languages stay.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def in_short(names: Sequence[str], most: int = 5) -> str:
    """The names in one line; of many names the first ones, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


class RunError(UserError):
    """A run that had to stop although its command was correct (loss not finite, disk full). Exit code 1."""

    exit_code = 1


class BudgetSpent(Exception):
    """A network that only answers was asked more than its budget allows. Training ends there; it is no error."""


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


def too_few_sentences(nearest: int, there: int) -> UserError:
    """The error where the `nearest` sentences of a class are to count, and each class has fewer."""
    return UserError(
        f"--nearest {nearest}: so many sentences of a class have to be there.",
        f"Each class has {there}.",
        "Choose a smaller --nearest or a larger --descriptions.",
    )


def prepare_command(dataset: str) -> str:
    """The command that downloads a data set. Errors about missing data end with it."""
    return f"python tools/prepare_data.py {dataset}"
