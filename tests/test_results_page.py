"""docs/results.md and docs/black_box.md: their tables are what their commands print from docs/receipts.csv."""

import csv
import json
import re
from collections import defaultdict

import pytest
from tiny import ROOT

PAGE = "\n".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("results.md", "black_box.md"))
RECEIPTS = ROOT / "docs" / "receipts.csv"
COMMAND = r"^python tools/results_table.py docs/receipts.csv (--.*)\n```\n(?:\n.*)?\n*.*prints\n\n```\n((?:.*\n)*?)```$"
PRINTED = re.findall(COMMAND, PAGE, re.MULTILINE)


@pytest.mark.parametrize(("flags", "text"), PRINTED)
def test_a_table_is_what_its_command_prints(flags, text, run_script, capsys, monkeypatch):
    run_script("tools/results_table", RECEIPTS, *flags.split())
    assert capsys.readouterr().out == text


def test_the_tables_were_found():
    assert len(PRINTED) == PAGE.count("python tools/results_table.py docs/receipts.csv --") >= 4


def test_the_rates_are_those_with_the_best_validation_accuracy():
    tried = defaultdict(list)  # method and flags, data set -> validation accuracy, rate, test accuracy
    for row in csv.DictReader(RECEIPTS.open(encoding="utf-8")):
        own = ("lr ", "batch-size ", "epoch ", "val-fraction ")
        flags = " ".join(f"--{word}" for word in json.loads(row["setting"]) if not word.startswith(own))
        words = row["command"].split()
        if row["epochs"] == "4":
            name = f"{row['method'].removeprefix('cnn/')}.py {flags}".strip()
            rate = float(words[words.index("--lr") + 1])
            tried[name, row["dataset"]].append((float(row["val_acc_last"]), rate, float(row["test_acc_last"])))
    table = re.search(r"^\| \| flowers102: rate, test .*\n(?:\|.*\n)+", PAGE, re.MULTILINE)[0]
    head, _, *rows = table.splitlines()
    names = [cell.split(":")[0].strip() for cell in head.strip("| ").split("|")]
    found = {}
    for line in rows:
        method, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found |= {(method.strip("`"), name): cell for name, cell in zip(names, cells, strict=True) if cell}
    best = {key: max(runs) for key, runs in tried.items()}
    assert found == {key: f"{rate:g}, {100 * test:.1f}" for key, (_, rate, test) in best.items()}


def test_readme_has_the_figures_of_the_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| epochs \| RLM \| FLM \| ILM .*\n\|-.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = {
        "20": "RLM-VP|FLM-VP|ILM-VP (epoch 20, lr|ILM-VP (epoch 20, map|BLM-VP|BLM+-VP|LP",
        "200": "|FLM-VP|ILM-VP|||BLM+-VP|",
    }
    for line in table.splitlines():
        epochs, *figures = (cell.strip() for cell in line.strip("|").split("|"))
        flags = f"--datasets flowers102 --epochs {epochs} --transpose"
        printed = dict(PRINTED)[flags].splitlines()
        for name, figure in zip(rows.pop(epochs).split("|"), figures, strict=True):
            found = next(row.split("|")[2] for row in printed if row.startswith(f"| {name}")) if name else ""
            assert figure == found.replace("(n = 1)", "").strip(" *")
    assert not rows
