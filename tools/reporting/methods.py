"""The methods of the tables, curves and report: one row a method, in the order of the columns.

Your own method has no row here. It is called by its script's file name and gets a mark that no row has.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Headline:
    """A paper's headline number for a method: `points` in percent on a `network`, the mean over `datasets`.

    If there is a `baseline` (a method's script), the points are the difference to it.
    """

    points: float
    network: str
    datasets: tuple[str, ...]
    source: str
    baseline: str | None = None


@dataclass(frozen=True)
class Method:
    """A method: its script below experiments/, the paper's name for it, its mark in figures, its paper's headlines."""

    script: str
    name: str
    colour: str
    marker: str
    headlines: tuple[Headline, ...] = ()


_CLIP, _ILM, _EVP = "ViT-B-32-quickgelu-openai", "Chen et al., CVPR 2023, abstract", "Wu et al., TMLR 2024, abstract"
_12 = tuple("cifar100 cifar10 flowers102 food101 eurosat sun397 ucf101 svhn oxfordpets dtd resisc45 clevr".split())
_ILM_VP = (
    Headline(7.9, "resnet18", ("flowers102",), _ILM, "cnn/flm_vp"),
    Headline(6.7, "resnet18", ("cifar100",), _ILM, "cnn/flm_vp"),
)
_ILM_TP_VP = (
    Headline(13.7, _CLIP, ("flowers102",), _ILM, "clip/single_tp_vp"),
    Headline(7.1, _CLIP, ("dtd",), _ILM, "clip/single_tp_vp"),
)
_EVP_CLIP = (
    Headline(82.8, _CLIP, _12, _EVP),
    Headline(5.6, _CLIP, _12, _EVP, "clip/vp"),
    Headline(2.1, _CLIP, _12, _EVP, "clip/linear_probing"),
)

# The colours are Okabe and Ito's: colour-blind readers can distinguish them. The markers are for print. Scripts of both
# folders that do the same have the same mark.
_ROWS = (
    Method("cnn/rlm_vp", "RLM-VP", "#CC79A7", "^"),
    Method("cnn/flm_vp", "FLM-VP", "#E69F00", "s"),
    Method("cnn/ilm_vp", "ILM-VP", "#0072B2", "o", _ILM_VP),
    Method("cnn/blm_vp", "BLM-VP", "#8C6D31", "p"),
    Method("cnn/blmp_vp", "BLM+-VP", "#6A51A3", "h"),
    Method("cnn/fully_vp", "Fully-VP", "#1B9E9E", "8"),
    Method("cnn/semantic_vp", "Semantic-VP", "#A05195", "d"),
    Method("cnn/evp", "EVP", "#009E73", "D"),
    Method("cnn/smm", "SMM", "#B8860B", "H"),
    Method("cnn/watermark_vp", "Watermark-VP", "#7F9C3A", "1"),
    Method("cnn/lor_vp", "LoR-VP", "#3B3B98", "2"),
    Method("cnn/auto_vp", "AutoVP", "#C44569", "3"),
    Method("cnn/acavp", "ACAVP", "#4F7942", "4"),
    Method("cnn/ares", "AReS", "#2F6F6F", "x"),
    Method("cnn/bar", "BAR", "#A6611A", "x"),
    Method("cnn/dam_vp", "DAM-VP", "#2E8B57", "$D$"),
    Method("cnn/c_avp", "C-AVP", "#8B0000", "$C$"),
    Method("cnn/linear_probing", "LP", "#56B4E9", "v"),
    Method("cnn/full_finetune", "FF", "#D55E00", "P"),
    Method("clip/zero_shot", "ZS", "#808080", "X"),
    Method("clip/single_tp_vp", "single-TP-VP", "#E69F00", "s"),
    Method("clip/ilm_tp_vp", "ILM-TP-VP", "#0072B2", "o", _ILM_TP_VP),
    Method("clip/blm_vp", "BLM-VP", "#8C6D31", "p"),
    Method("clip/blmp_vp", "BLM+-VP", "#6A51A3", "h"),
    Method("clip/fully_vp", "Fully-VP", "#1B9E9E", "8"),
    Method("clip/vp", "VP", "#CC79A7", "^"),
    Method("clip/evp", "EVP", "#009E73", "D", _EVP_CLIP),
    Method("clip/acavp", "ACAVP", "#4F7942", "4"),
    Method("clip/attr_vr", "AttrVR", "#8B4789", "+"),
    Method("clip/ares", "AReS", "#2F6F6F", "x"),
    Method("clip/dvp", "DVP", "#2E5E4E", "x"),
    Method("clip/rvp", "RVP", "#9A3324", "|"),
    Method("clip/bar", "BAR", "#A6611A", "x"),
    Method("clip/blackvip", "BlackVIP", "#2C5F6F", "|"),
    Method("clip/linear_probing", "LP", "#56B4E9", "v"),
    Method("clip/full_finetune", "FF", "#D55E00", "P"),
)
METHODS = {row.script: row for row in _ROWS}
_USED = {part for row in _ROWS for part in (row.colour, row.marker)}
_MARKS = (("#8C6D31", "p"), ("#6A51A3", "h"), ("#B2182B", "*"), ("#5C5C00", "<"), ("#00808C", ">"))
_LEFT = [mark for mark in _MARKS if not _USED & set(mark)]  # a new row above may take one of them


def rows_of(scripts: Iterable[str]) -> dict[str, Method]:
    """All rows, then one row for each of the user's own methods among the `scripts` of a page."""
    own = sorted(set(scripts) - METHODS.keys())
    marks = [_LEFT[number % len(_LEFT)] for number in range(len(own))]
    return METHODS | {
        script: Method(script, script.rpartition("/")[2], *mark) for script, mark in zip(own, marks, strict=True)
    }


def position(name: str, known: Sequence[str]) -> tuple[int, str]:
    """A key to sort names: first those of `known` in its order, then the others in alphabetical order."""
    return [*known, name].index(name), name


FROM = "from "  # begins the word of a setting that says which of several files a run is from


@dataclass(frozen=True)
class Column:
    """A method, by its script below experiments/, in one setting: the flags that differ from the script's defaults."""

    method: str
    setting: tuple[str, ...] = ()

    def __lt__(self, other: "Column") -> bool:
        """Columns stand in the order of METHODS; columns of one method in the order of their settings."""
        mine, theirs = ((position(column.method, [*METHODS]), column.setting) for column in (self, other))
        return mine < theirs

    @property
    def folder(self) -> str:
        return self.method.partition("/")[0]

    def label(self, shared: Collection[str] = (), more: Collection[str] = ()) -> str:
        """The method's name, the flags of its setting that are not `shared`, and `more` of them."""
        own = ", ".join(sorted({*self.setting, *more} - {*shared}))
        return rows_of([self.method])[self.method].name + (f" ({own})" if own else "")
