"""Parts of a model that know how they were made, so that a checkpoint is enough to make them again."""

import importlib
import inspect
from typing import Any

from torch import Tensor, nn

from errors import UserError

_PLAIN = (type(None), bool, int, float, str)


class Part(nn.Module):
    """A module that remembers the arguments of its constructor: numbers, texts, tensors, parts, or lists of these.

    Prompts and output mappings inherit from it. If your own class does too, and stands in a file of `models/`,
    `tools/evaluate.py` and `tools/predict.py` can rebuild it from a checkpoint.
    """

    def __new__(cls, *args: Any, **kwargs: Any):
        part = super().__new__(cls)
        given = inspect.signature(cls.__init__).bind_partial(part, *args, **kwargs).arguments  # copying gives none
        object.__setattr__(part, "arguments", dict(list(given.items())[1:]))
        return part

    def described(self) -> dict[str, Any]:
        """The class's name and the constructor's arguments, in plain values and tensors on the CPU.

        Raises:
            UserError: an argument is something else.
        """
        cls = type(self)
        if cls.__module__.partition(".")[0] != __package__:
            print(f"{cls.__name__} does not lie in {__package__}/: evaluate.py and predict.py will not find it.")
        arguments = {name: _plain(value, cls, name) for name, value in self.arguments.items()}
        return {"class": f"{cls.__module__}.{cls.__qualname__}", "arguments": arguments}


def _plain(value: Any, cls: type, name: str) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Part):
        return value.described()
    if isinstance(value, list | tuple):
        return [_plain(one, cls, name) for one in value]
    if isinstance(value, _PLAIN):
        return value
    raise UserError(
        f"{cls.__name__}: a checkpoint saves the arguments of its constructor.",
        f"{name} is a {type(value).__name__}.",
        "Give numbers, texts, tensors, parts, or lists of these.",
    )


def rebuilt(description: Any) -> Part:
    """The part that `Part.described` describes; its learned values are loaded afterwards.

    Only subclasses of Part that a file of `models/` defines are admitted, whatever class a checkpoint names.

    Raises:
        UserError: there is no such class.
        Others: what its constructor raises for these arguments.
    """
    name, arguments = description["class"], description["arguments"]
    module, _, cls = str(name).rpartition(".")
    package, _, file = module.partition(".")
    asked = f"The checkpoint names the class {str(name)[:200]} of a prompt or an output mapping."
    move = f"Put the class where it was in {__package__}/; a class of a script has to move there before it trains."
    if package != __package__ or not file.isidentifier() or not cls.isidentifier():
        raise UserError(asked, f"It does not lie in {__package__}/.", move)
    try:
        found = getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError):
        raise UserError(asked, "There is no such class.", move) from None
    if not (isinstance(found, type) and issubclass(found, Part) and found.__module__ == module):
        raise UserError(asked, "It is no part of a model: it does not inherit from Part.", move)
    return found(**{key: _given(value) for key, value in arguments.items()})


def _given(value: Any) -> Any:
    """The argument that `_plain` describes."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, list):
        return [_given(one) for one in value]
    return rebuilt(value) if isinstance(value, dict) else value
