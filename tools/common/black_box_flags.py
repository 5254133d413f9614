"""The flags of methods that train on a network that only answers."""

from tools.common.args import Parser
from tools.common.flag_types import positive_int


def add_budget_flags(parser: Parser, precise: bool = True) -> None:
    """--budget and --budget-images.

    Args:
        precise: float32 is the default precision. Differences of two losses are all that these methods learn from, and
            in half precision they are mostly rounding: BlackVIP's VP has 51 % instead of 71 % on EuroSAT.
    """
    calls = "questions that training and mappings may ask, a batch of images each; training ends there; default any"
    parser.add_argument("--budget", type=positive_int, metavar="CALLS", help=calls)
    images = "images that training and mappings may ask for; training ends there; default any number"
    parser.add_argument("--budget-images", type=positive_int, metavar="N", help=images)
    if precise and parser.get_default("precision") == "auto":
        parser.set_defaults(precision="float32")
