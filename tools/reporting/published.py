"""Published test accuracies in percent, to stand beside one's own: found by network, data set and method."""

from collections.abc import Collection
from dataclasses import dataclass

from tools.reporting.methods import FROM
from tools.reporting.published_tables import TABLES, Source


@dataclass(frozen=True)
class Published:
    """A published number. `method` is its name in print, `script` the script that repeats it with the flags `setting`.

    Args:
        setting: as in a Column. The words on the training images are there for methods without a script, too.
        std: None if the source has no deviation of this number.
        prompt: whether a visual prompt learns, and nothing else but a map. Other numbers are no record of a prompt.
    """

    network: str
    dataset: str
    method: str
    script: str
    setting: tuple[str, ...]
    accuracy: float
    std: float | None
    source: Source
    prompt: bool

    @property
    def text(self) -> str:
        return f"{self.accuracy:.1f}" + (f" ± {self.std:.1f}" if self.std is not None else "")

    @property
    def named(self) -> str:
        """The number with its method and the flags that it learned with."""
        return ", ".join([f"{self.text} {self.method}", *sorted(training_images(self.setting))])


# name in print -> script, its flags, and whether only a prompt learns. A name that is not here is a prompt's.
_METHODS = {
    "RLM-VP": ("cnn/rlm_vp", (), True),
    "FLM-VP": ("cnn/flm_vp", (), True),
    "ILM-VP": ("cnn/ilm_vp", (), True),
    "Narrow": ("cnn/watermark_vp", ("width 28",), True),
    "Medium": ("cnn/watermark_vp", ("width 56",), True),
    "Full": ("cnn/watermark_vp", (), True),
    "Full+FLM": ("cnn/watermark_vp", ("mapping flm",), True),
    "Full+RLM": ("cnn/watermark_vp", ("mapping rlm",), True),
    "SMM": ("cnn/smm", (), True),
    "SMM+FLM": ("cnn/smm", ("mapping flm",), True),
    "SMM+RLM": ("cnn/smm", ("mapping rlm",), True),
    "LP": ("cnn/linear_probing", (), False),
    "FF": ("cnn/full_finetune", (), False),
    "ZS": ("clip/zero_shot", (), False),
    "VP": ("clip/attr_vr", ("attr-method vp",), True),  # in tables of CLIP, with 16 shots
    "AR": ("clip/attr_vr", ("attr-method ar",), True),
    "AttrVR": ("clip/attr_vr", (), True),
    "DVP": ("clip/dvp", (), True),
    "DVP-cse": ("clip/dvp", ("causes 3",), True),
    "RVP": ("clip/rvp", (), True),
}


def _rows(network: str, source: Source, common: tuple[str, ...], text: str) -> list[Published]:
    """The numbers of one table. Its first line names the methods, or the data sets if its other lines are methods."""
    head, *lines = (line.split() for line in text.strip().splitlines())
    rows = []
    for name, *cells in lines:
        for other, cell in zip(head, cells, strict=True):
            dataset, method = (other, name) if head[0].islower() else (name, other)
            script, own, prompt = _METHODS.get(method, ("", (), True))
            mean, _, std = cell.partition("±")
            setting = tuple(sorted((*common, *own)))
            spread = float(std) if std else None
            rows.append(Published(network, dataset, method, script, setting, float(mean), spread, source, prompt))
    return rows


RECORD = "best published prompt"  # the head of its column
PUBLISHED = tuple(row for table in TABLES for row in _rows(*table))
# words of a setting that leave the experiment the same; --attributes is where the sentences are
_HOW = ("epoch ", "precision ", "plain", "val-shots ", "attributes ", FROM)


def published_as(network: str) -> str:
    """The name under which PUBLISHED has a network. open_clip has two names for OpenAI's CLIPs."""
    return network.replace("-quickgelu-", "-")


def published_in(network: str, dataset: str, method: str, setting: Collection[str]) -> Published | None:
    """The published number of a column: the same method with the same flags, whatever its epochs and precision."""
    own = {word for word in setting if not word.startswith(_HOW)}
    wanted = published_as(network), dataset, method, own
    rows = (row for row in PUBLISHED if (row.network, row.dataset, row.script, {*row.setting}) == wanted)
    return next(rows, None)


def record(network: str, dataset: str, setting: Collection[str]) -> Published | None:
    """The best published prompt that learned from the same training images: all, or so many shots."""
    rows = [row for row in PUBLISHED if (row.network, row.dataset) == (published_as(network), dataset)]
    rows = [row for row in rows if training_images(row.setting) == training_images(setting) and row.prompt]
    return max(rows, key=lambda row: row.accuracy, default=None)


def training_images(setting: Collection[str]) -> set[str]:
    """The words of a setting that say on which of the training images a method learns."""
    return {word for word in setting if word.startswith(("shots ", "train-fraction "))}
