"""How many images of each class are predicted right."""

from collections.abc import Sequence

from torch import Tensor

from errors import in_short


def per_class(confusion: Tensor, class_names: Sequence[str]) -> list[dict]:
    """One dict a class, in the classes' order: its name `class`, how many images are `right`, and `of` how many.

    Args:
        confusion: (T,T) int64, how many images of each class (second axis) are predicted as each class (first axis).
    """
    counts = zip(class_names, confusion.diagonal().tolist(), confusion.sum(0).tolist(), strict=True)
    return [{"class": name, "right": right, "of": images} for name, right, images in counts]


def class_table(classes: Sequence[dict]) -> str:
    """What `per_class` counts as lines of text, the class with the lowest accuracy first."""
    seen = sorted((one for one in classes if one["of"]), key=lambda one: one["right"] / one["of"])
    lines = [f"{one['right'] / one['of']:8.4f} {one['right']:7} of {one['of']:<7}{one['class']}" for one in seen]
    if unseen := [one["class"] for one in classes if not one["of"]]:
        lines.append(f"Classes without an image: {in_short(unseen, 10)}")
    return "\n".join(["", "Accuracy by class, the lowest first:", *lines])
