"""Receipts of many runs in one CSV file: results_table.py writes it, and makes the same tables from it."""

import csv

import pytest
import test_results_table
from test_results_table import RESNET

import cfg
from errors import UserError
from tools.reporting.receipt_file import HEAD

pytestmark = pytest.mark.usefixtures("small")
receipt, table, real = (getattr(test_results_table, name) for name in ("receipt", "table", "real"))
DTD = {"classes": 47, "test_size": 1692, "data": {"test": "1692 images, abc"}}


@pytest.fixture
def runs(receipt, run_script, tmp_path):
    """The file of several runs, and their folder."""
    for seed in (7, 8, 9):
        receipt("cnn/ilm_vp", "dtd", seed, 0.3 + seed / 100, epoch=2, result=DTD)
        receipt("cnn/flm_vp", "dtd", seed, 0.1 + seed / 300, epoch=2, template='a, "{}" | \u00e9', result=DTD)
    receipt("cnn/bar", "dtd", 7, 0.2, epoch=2, result=DTD | {"calls": 5000, "images_asked": 60000})
    receipt("clip/zero_shot", 'a,b "c"', 7, 0.25, result={"test_acc_at_best_val": None})
    receipt("cnn/ilm_vp", "svhn", 7, result={"status": "interrupted"})
    path = tmp_path / "mine.csv"
    run_script("tools/results_table", "--receipts", path)
    return path


def test_it_has_a_line_for_each_finished_run(runs):
    head, *lines = csv.reader(runs.read_text(encoding="utf-8").splitlines())
    assert head == HEAD and len(lines) == 8
    ilm = [dict(zip(head, line, strict=True)) for line in lines if line[0] == "cnn/ilm_vp"]
    place = {"network": RESNET, "dataset": "dtd", "seed": "7", "epochs": "2", "precision": "float32"}
    own = {"setting": '["epoch 2"]', "classes": "47", "test_size": "1692", "test_images": "1692 images, abc"}
    assert ilm[0].items() >= (place | own | {"test_acc_last": "0.37", "corruptions_acc": ""}).items()
    assert ilm[0]["command"].startswith("python experiments/cnn/ilm_vp.py --network resnet18 --dataset dtd --seed 7")


@pytest.mark.parametrize("flags", [(), ("--metric", "at-best-val"), ("--format", "csv"), ("--format", "latex")])
def test_its_tables_are_those_of_the_folder(flags, runs, run_script):
    texts = [run_script("tools/results_table", source, *flags) for source in (cfg.results_path, runs)]
    lines = [[line for line in text.splitlines() if "not finished" not in line] for text in texts]
    assert lines[0] == lines[1] and "ILM-VP" in texts[0] and ("5,000 (60,000)" in texts[0]) == ("csv" not in flags)


def test_a_file_of_an_earlier_version_has_no_counts(runs, run_script):
    head, *lines = csv.reader(runs.read_text(encoding="utf-8").splitlines())
    kept = [head.index(name) for name in head if name not in ("calls", "images_asked")]
    with runs.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([line[i] for i in kept] for line in (head, *lines))
    text = run_script("tools/results_table", runs)
    assert "BAR" in text and "Questions" not in text


def test_two_files_stand_side_by_side(runs, table, tmp_path):
    other = tmp_path / "docs.csv"
    lines = runs.read_text(encoding="utf-8").splitlines(keepends=True)
    other.write_text("".join(lines).replace("0.38", "0.88"), encoding="utf-8")  # ILM-VP's seed 8
    tables, rest = table(runs, other, "--network", RESNET, "--methods", "cnn/ilm_vp")
    assert tables[RESNET]["dtd"] == {
        "ILM-VP (from docs)": "**54.7 ± 28.9**",
        "ILM-VP (from mine)": "**38.0 ± 1.0**",
        "best published prompt": "",
    }
    assert tables[RESNET]["published dtd"]["ILM-VP (from mine)"] == "35.3"
    assert "All trained with: epoch 2." in rest
    (tmp_path / "more").mkdir()
    again = runs.rename(tmp_path / "more" / "docs.csv")
    names = [*table(other, again, "--network", RESNET, "--methods", "cnn/ilm_vp")[0][RESNET]["dtd"]]
    assert names[:2] == [f"ILM-VP (from {path})" for path in (other, again)]
    folder = table(again, cfg.results_path, "--network", RESNET, "--methods", "cnn/ilm_vp")[0]
    assert folder[RESNET]["dtd"]["ILM-VP (from results)"] == "**38.0 ± 1.0**"


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("setting", "{}"),
        ("setting", "[1]"),
        ("setting", "epoch 2"),
        ("test_acc_last", ""),
        ("test_acc_last", "38"),
        ("test_acc_best", "nan"),
        ("seed", "seven"),
        ("command", "python 'x"),
    ],
)
def test_a_damaged_line_is_named_and_left_out(column, cell, runs, table):
    rows = list(csv.reader(runs.read_text(encoding="utf-8").splitlines()))
    number = next(number for number, row in enumerate(rows) if row[0] == "cnn/ilm_vp")
    rows[number][HEAD.index(column)] = cell
    with runs.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    tables, rest = table(runs)
    assert tables[RESNET]["dtd"]["ILM-VP"] == "**38.5 ± 0.7 (n = 2)**"
    assert f"- Left out, run {number} of {runs}: " in rest


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "has no line of a run"),
        (b"a,b\n1,2\n", "lacks method, network"),
        (b"\xff\xfe", "cannot be read"),
        (b"x" * 200_000 + b",y\n1,2\n", "cannot be read"),
    ],
)
def test_a_file_of_something_else(content, found, run_script, tmp_path):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(UserError, match=found) as caught:
        run_script("tools/results_table", tmp_path / "x.csv")
    assert caught.value.next_step == "Make one: python tools/results_table.py --receipts FILE"


def test_missing_runs_are_those_of_a_folder(runs, run_script):
    for sources in ([runs], [cfg.results_path, runs]):
        with pytest.raises(UserError, match="--missing is for one folder of results"):
            run_script("tools/results_table", *sources, "--missing")
