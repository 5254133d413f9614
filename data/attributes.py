"""Sentences that describe classes, from JSON files of the user's (AttrVR, ICLR 2025; DVP, ICML 2025)."""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

from errors import UserError, in_short

BANKS = ("descriptive", "distinctive")
SHORTEST = 20  # characters: shorter sentences are left out, as in AttrVR's code


def read_attributes(
    folder: Path, dataset: str, class_names: Sequence[str], number: int, seed: int, banks: Sequence[str] = BANKS
) -> list[list[str]]:
    """Sentences for each class from `folder`/`dataset`_descriptive.json and `folder`/`dataset`_distinctive.json.

    A file holds one object: class name -> list of sentences. Upper case, underscores and hyphens of class names do not
    matter. Sentences are drawn at random, without replacement if there are enough of them.

    Args:
        number: m, sentences of each class in each bank.
        banks: what the files' names have after `dataset`.

    Returns:
        For each bank m x T sentences: sentence i of class t has the index i * T + t.

    Raises:
        UserError: a file is missing or has another content, or a class has no sentence of at least 20 characters.
    """
    return [_read_bank(folder / f"{dataset}_{bank}.json", class_names, number, seed) for bank in banks]


def by_class(banks: Sequence[Sequence[str]], num_target: int) -> list[str]:
    """The same sentences class by class: sentence i of n banks of m has the index t * (n * m) + bank * m + i (DVP)."""
    return [sentence for target in range(num_target) for bank in banks for sentence in bank[target::num_target]]


def _read_bank(file: Path, class_names: Sequence[str], number: int, seed: int) -> list[str]:
    found = _load(file)
    names = {_plain(name): name for name in class_names}
    if missing := [name for plain, name in names.items() if not found.get(plain)]:
        raise UserError(
            f"{file}: a sentence of at least {SHORTEST} characters is needed for every class.",
            f"There is none for {in_short(missing)}.",
            "Add these classes to the file.",
        )
    if unknown := len(found.keys() - names.keys()):
        print(f"{file} describes {unknown} more {'class' if unknown == 1 else 'classes'}, which the data set lacks.")
    generator = random.Random(seed)
    drawn = [_draw(found[_plain(name)], number, generator) for name in class_names]
    return [sentences[i] for i in range(number) for sentences in drawn]


def _load(file: Path) -> dict[str, list[str]]:
    """Class name, made plain -> its sentences that are long enough."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        for name, sentences in content.items():
            if not (isinstance(sentences, list) and all(isinstance(one, str) for one in sentences)):
                raise ValueError(f"the value of '{name[:100]}' is no list of sentences")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f'--attributes {file.parent}: {file.name} is needed there, as {{"class name": ["A sentence.", ...], ...}}.',
            f"It cannot be read: {str(error)[:300]}.",
            "Rename the file of AttrVR's release to this name, or write one. docs/methods.md describes it.",
        ) from None
    return {_plain(name): [one for one in found if len(one) >= SHORTEST] for name, found in content.items()}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def _draw(sentences: Sequence[str], number: int, generator: random.Random) -> list[str]:
    enough = len(sentences) >= number
    return generator.sample(sentences, number) if enough else generator.choices(sentences, k=number)
