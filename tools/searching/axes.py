"""The axes of a search: `lr=1e-3:1e-1:log`, `batch-size=32,64,128`, `trainable-scale=on,off`."""

from dataclasses import dataclass

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from errors import UserError
from tools.common.args import Parser
from tools.common.naming import MACHINE

EXAMPLES = "Type for example --search lr=1e-3:1e-1:log, or --search batch-size=32,64,128."
# With another value of these, the validation accuracies of two trials are not of the same images.
IMAGES = ("dataset", "seed", "shots", "train_fraction", "val_fraction", "val_shots")


@dataclass(frozen=True)
class Axis:
    """A flag of the script, and the values that a search may give it.

    Args:
        flag: `--lr`.
        text: what was typed after the `=`.
        switch: the flag takes no value: `on` types it, `off` does not.
    """

    flag: str
    text: str
    distribution: BaseDistribution
    switch: bool = False

    @property
    def name(self) -> str:
        return self.flag.removeprefix("--")

    def words(self, value: float | str) -> list[str]:
        """What is typed for a value of the distribution. Fractions have four digits, so that names stay short."""
        if self.switch:
            return [self.flag] if value == "on" else []
        return [self.flag, self.shown(value)]

    @staticmethod
    def shown(value: float | str) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    @property
    def extremes(self) -> list[float | str]:
        """The ends of a range, or all choices."""
        if isinstance(self.distribution, CategoricalDistribution):
            return list(self.distribution.choices)
        return [self.distribution.low, self.distribution.high]


def read_axes(searches: list[str], flags: list[str], parser: Parser) -> list[Axis]:
    """The axes of --search, checked with the script's own parser.

    Args:
        searches: the values of --search, one for each axis.
        flags: what is typed for every trial.

    Raises:
        UserError: an axis is not understood, is empty, is named twice, or is no flag of the script.
    """
    axes: list[Axis] = []
    for search in searches:
        axis = _read_axis(search, parser)
        if axis.flag in {other.flag for other in axes}:
            raise UserError(f"--search {search}: each flag has one axis.", f"{axis.flag} has two.", "Leave one out.")
        if any(word.partition("=")[0] == axis.flag for word in flags):
            found = f"{axis.flag} is typed for every trial, too."
            raise UserError(f"--search {search}: the search chooses the values of {axis.flag}.", found, "Leave it out.")
        axes.append(axis)
    first = [axis.words(axis.extremes[0]) for axis in axes]
    for number, axis in enumerate(axes):
        for value in axis.extremes:
            words = [*first[:number], axis.words(value), *first[number + 1 :]]
            # the script's own errors name the script and the flag
            parser.parse_args([*flags, *(word for each in words for word in each)])
    return axes


def _read_axis(search: str, parser: Parser) -> Axis:
    name, _, text = search.partition("=")
    flag = "--" + name.lstrip("-").replace("_", "-")
    dest = flag[2:].replace("-", "_")
    if not name.strip("-") or not text:
        raise UserError(f"--search {search}: a flag and its values are needed.", "There is no NAME=VALUES.", EXAMPLES)
    if dest in (*IMAGES, *MACHINE):
        found = f"{flag} says which images are used, or on which machine. It is the same for all trials."
        raise UserError(f"--search {search}: a search compares settings.", found, f"Type {flag} without --search.")
    action = parser._option_string_actions.get(flag)
    if action is not None and action.nargs == 0:
        if sorted(text.split(",")) != ["off", "on"]:
            found = f"{flag} takes no value."
            raise UserError(f"--search {search}: values are needed.", found, f"Type --search {flag[2:]}=on,off")
        return Axis(flag, text, CategoricalDistribution(["on", "off"]), switch=True)
    if ":" in text:
        return Axis(flag, text, _range(search, text))
    choices = text.split(",")
    if "" in choices or len(set(choices)) < len(choices) or len(choices) < 2:
        found = "A value is empty, stands there twice, or is the only one."
        raise UserError(f"--search {search}: two different values, or more, are needed.", found, EXAMPLES)
    return Axis(flag, text, CategoricalDistribution(choices))


def _range(search: str, text: str) -> BaseDistribution:
    """LOW:HIGH, of whole numbers if both are written so, or LOW:HIGH:log."""
    low, high, *scale = text.split(":")
    try:
        kind = int if low.lstrip("-").isdecimal() and high.lstrip("-").isdecimal() else float
        ends = kind(low), kind(high)
        if scale not in ([], ["log"]) or not all(abs(end) < float("inf") for end in ends):
            raise ValueError
    except ValueError:
        found = f"{text} is neither LOW:HIGH nor LOW:HIGH:log."
        raise UserError(f"--search {search}: a range of numbers is needed.", found, EXAMPLES) from None
    if not ends[0] < ends[1]:
        found = f"The range from {low} to {high} is empty."
        raise UserError(f"--search {search}: the lower end comes first.", found, EXAMPLES)
    if scale and ends[0] <= 0:
        found = f"The logarithm of {low} does not exist."
        next_step = "Start above 0, or leave :log out."
        raise UserError(f"--search {search}: a logarithmic range starts above 0.", found, next_step)
    return (IntDistribution if kind is int else FloatDistribution)(*ends, log=bool(scale))
