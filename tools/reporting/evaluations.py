"""What evaluate.py kept of a run beside its receipt: calibration.json and attack.json, in words."""

from collections.abc import Callable
from pathlib import Path

from errors import UserError
from tools.common.files import read_json
from tools.reporting.receipts import number


def _calibration(found: dict) -> dict[str, object]:
    fitted = found["calibration"]
    words = {"test accuracy": found["acc"], "expected calibration error": found["ece"]}
    if fitted["temperature"] is None:
        return words | {"temperature": f"none. {fitted['no_temperature']}"}
    words |= {"temperature": fitted["temperature"], "fitted on": f"{fitted['val_size']} validation images"}
    return words | {"expected calibration error with it": fitted["ece"]}


def _attack(found: dict) -> dict[str, object]:
    attack, eps = found["attack"], number(found["attack"]["eps"])
    words = {"test accuracy": found["acc"], "accuracy under attack": found["attack_acc"]}
    words |= {"attack": f"{attack['attack']}, {attack['steps']} steps", "eps": eps, "seed": attack["seed"]}
    return words | {"the attacker sees": attack["attacker_sees"]}


# file -> its heading, and what the page shows of it
_FILES: dict[str, tuple[str, Callable[[dict], dict[str, object]]]] = {
    "calibration.json": ("Calibration", _calibration),
    "attack.json": ("Attack", _attack),
}


def read_evaluations(run: Path) -> tuple[dict[str, dict[str, object]], list[str]]:
    """Heading -> what to show, of each file that is in the run's folder; and notes on files that cannot be used."""
    shown, notes = {}, []
    for name, (heading, words) in _FILES.items():
        try:
            if found := read_json(run / name):
                shown[heading] = words(found)
        except UserError as error:
            notes.append(f"{name} cannot be read: {error.found}")
        except (KeyError, TypeError) as error:
            notes.append(f"{name} is not an evaluation's file: {error!r}.")
    return shown, notes
