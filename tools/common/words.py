"""Names that are cut to fit into figures."""

_LONGEST = 30  # characters of a class name or text prompt that still fit beside a heat map


def short(name: str, longest: int = _LONGEST) -> str:
    """Cut in the middle: a text prompt's class name stands at its end."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[: half - 1]}…{name[-half:]}"
