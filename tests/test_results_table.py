"""tools/results_table.py: on receipts of tiny runs, and on others made from them."""

import csv
import io
import json
import re
import shlex
import shutil

import pytest
from tiny import ROOT

import cfg
from errors import RunError, UserError
from tools.common import naming
from tools.common.args import experiment_parser
from tools.common.mapping_flags import add_iteration_flags
from tools.reporting.methods import METHODS

pytestmark = pytest.mark.usefixtures("small")

RESNET, CLIP = "resnet18", "ViT-B-32-quickgelu-openai"
NETWORKS = {"cnn": RESNET, "clip": CLIP}
NAMES = {"rlm_vp": "RLM-VP", "flm_vp": "FLM-VP", "ilm_vp": "ILM-VP", "evp": "EVP", "vp": "VP", "zero_shot": "ZS"}
NAMES |= {"single_tp_vp": "single-TP-VP", "ilm_tp_vp": "ILM-TP-VP", "linear_probing": "LP", "full_finetune": "FF"}
OPENAI = {"cnn": {}, "clip": {"clip_model": "ViT-B-32-quickgelu", "pretrained": "openai", "clip_config": None}}
REAL: dict[str, tuple[dict, dict]] = {}  # folder -> args.json and result.json of a tiny run


@pytest.fixture
def real(run_script, words) -> dict[str, tuple[dict, dict]]:
    """REAL, filled by the first test that needs it."""
    for script in () if REAL else ("cnn/rlm_vp", "clip/linear_probing"):
        run_script(f"experiments/{script}", *words(f"experiments/{script}"), "--epoch", 1)
        (run,) = (cfg.results_path / script).iterdir()
        files = [json.loads((run / name).read_text()) for name in ("args.json", "result.json")]
        REAL[script.partition("/")[0]] = tuple(files)
        shutil.rmtree(cfg.results_path)
    return REAL


@pytest.fixture
def receipt(real):
    """receipt("cnn/ilm_vp", "dtd", 7, 0.5, epoch=2) writes the receipt of such a run, returns its folder.

    `flags` are those that differ from the script's defaults; `result` is what result.json has instead.
    """

    def write(method, dataset="dtd", seed=7, accuracy=0.5, network=None, name="", result=(), **flags):
        folder = method.partition("/")[0]
        network = network or NETWORKS[folder]
        words = ["--network", network] * (folder == "cnn") + ["--dataset", dataset, "--seed", str(seed)]
        words += [word for flag, value in flags.items() for word in (f"--{flag.replace('_', '-')}", str(value))]
        command = shlex.join(["python", f"experiments/{method}.py", *words])
        place = {"network": network, "dataset": dataset, "seed": seed, "command": command}
        default = {"epoch": 0 if method == "clip/zero_shot" else 200}
        default["precision"] = "float16" if flags.get("device") == "cuda" else "float32"
        changed = {flag: value for flag, value in flags.items() if value != default.get(flag)}
        own = {flag: value for flag, value in changed.items() if flag not in (*naming.MACHINE, *naming.CLIP)}
        setting = sorted(f"{flag.replace('_', '-')} {value}" for flag, value in own.items())
        args = real[folder][0] | OPENAI[folder] | default | flags | place | {"setting": setting}
        accuracies = dict.fromkeys(("test_acc_last", "test_acc_best", "test_acc_at_best_val"), accuracy)
        numbers = real[folder][1] | place | {"method": method, "epochs": args["epoch"]} | accuracies | dict(result)
        path = cfg.results_path / method / (name or re.sub("[^a-z0-9.]+", "-", f"{network} {' '.join(words)}"))
        path.mkdir(parents=True)
        for file, content in (("args.json", args), ("result.json", numbers)):
            (path / file).write_text(json.dumps(content))
        return path

    return write


@pytest.fixture
def table(run_script, capsys):
    """table("--metric", "best") -> {network: {row: {column: cell}}}, and the rest of the Markdown as text.

    The cells have no number of test images. Published numbers are in the row "published ROW".
    """

    def make(*flags) -> tuple[dict, str]:
        text = run_script("tools/results_table", *flags)
        assert capsys.readouterr().out.endswith(text)
        tables, rest = {}, []
        for block in text.split("\n\n"):
            if not block.startswith("|"):
                rest.append(block)
                continue
            head, rule, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines())
            assert set("".join(rule)) <= set("- |") and len(set(head)) == len(head)
            network = rest[-1].partition(":")[0]
            tables[network], row = {}, ""
            for name, _, *cells in rows:
                row = f"published {row}" if name == "published" else name
                tables[network][row] = dict(zip(head[2:], cells, strict=True))
        return tables, "\n".join(rest)

    return make


def test_real_runs(run_script, words, table):
    """A table of runs as they are, not of receipts that were made up."""
    flags = {"ILM-VP": (), "ILM-VP (mapping-interval 2)": ("--mapping-interval", 2), "ILM-VP (plain)": ("--plain",)}
    script = "experiments/cnn/ilm_vp"
    runs = {name: run_script(script, *words(script), "--epoch", 2, *more) for name, more in flags.items()}
    tables, rest = table()
    cells = tables["tiny"]["small"]
    assert {name: cell.strip("*") for name, cell in cells.items()} == {
        name: f"{100 * result['test_acc_last']:.1f}" for name, result in runs.items()
    }
    first, *rule, last = rest.strip().split(". ")
    assert (first, last) == (
        "tiny: test accuracy in percent after the last epoch; seed 7",
        "All trained with: epoch 2.",
    )
    assert [sentence[:5] for sentence in rule] == ["Bold:", "The d"]
    for metric, key in (("best", "test_acc_best"), ("at-best-val", "test_acc_at_best_val")):
        assert table("--metric", metric)[0]["tiny"]["small"]["ILM-VP"].strip("*") == f"{100 * runs['ILM-VP'][key]:.1f}"


@pytest.mark.parametrize(
    ("flags", "setting"),
    [
        ("", []),
        ("--seed 9 --workers 2 --fresh --compile --precision float32", []),
        ("--plain --epoch 3 --lr 0.50 --precision bfloat16", ["epoch 3", "lr 0.5", "plain", "precision bfloat16"]),
        ("--shots 4 --mapping-interval 1", ["shots 4"]),
    ],
)
def test_the_setting_that_a_run_writes(flags, setting):
    script = "experiments/cnn/ilm_vp"
    parser = experiment_parser(script, "", lr=0.01)
    add_iteration_flags(parser)
    args = parser.parse_args(["--network", "tiny", "--dataset", "small", *flags.split()])
    assert naming.setting(args, parser, args.precision.replace("auto", "float32")) == setting


def test_mean_and_sample_standard_deviation_over_seeds(receipt, table):
    for seed, accuracy in {7: 0.5, 8: 0.6, 9: 0.9}.items():  # 66.67, sqrt((16.67^2 + 6.67^2 + 23.33^2) / 2)
        receipt("cnn/ilm_vp", "dtd", seed, accuracy)
    for seed, accuracy in {7: 0.1, 8: 0.2}.items():  # 15, sqrt(5^2 + 5^2)
        receipt("cnn/flm_vp", "dtd", seed, accuracy)
    receipt("cnn/flm_vp", "flowers102", 8, 0.3)
    tables, rest = table()
    dtd = {"FLM-VP": "15.0 ± 7.1 (n = 2)", "ILM-VP": "**66.7 ± 20.8**"}
    assert tables[RESNET] == {"dtd": dtd, "flowers102": {"FLM-VP": "30.0 (n = 1)", "ILM-VP": "-"}}
    assert "mean ± sample standard deviation over seeds 7, 8, 9." in rest
    assert table("--seeds", 7, "--datasets", "dtd")[0][RESNET] == {"dtd": {"FLM-VP": "10.0", "ILM-VP": "**50.0**"}}


def test_bold_is_the_best_and_what_does_not_differ_from_it(receipt, table):
    """1000 test images. The best's error is sqrt(.8 * .2 / 1000) = 1.265 points, with a deviation of 1 over two seeds
    sqrt(1.6 + 0.5) = 1.449. That of 76.0 is sqrt(.76 * .24 / 1000) = 1.351: 2 * sqrt(1.6 + 1.824) = 3.70 < 4.0, and
    2 * sqrt(2.1 + 0.5 + 1.824) = 4.21 > 4.0 with the deviations.
    """
    size = {"test_size": 1000}
    for method, accuracy in {"rlm_vp": 0.76, "flm_vp": 0.765, "ilm_vp": 0.8, "evp": 0.8}.items():
        receipt(f"cnn/{method}", "dtd", 7, accuracy, result=size)
        for seed, more in ((7, 1 / 2**0.5), (8, -1 / 2**0.5)):
            receipt(f"cnn/{method}", "svhn", seed, accuracy + more / 100, result=size)
        receipt(f"cnn/{method}", "gtsrb", 7, accuracy, result={"test_size": 0})  # not known: no error at all
    cells, rest = table("--methods", "cnn/rlm_vp", "cnn/ilm_vp")
    assert {row: "**" in two["RLM-VP"] for row, two in cells[RESNET].items()} == {
        "svhn": True,
        "gtsrb": False,
        "dtd": False,
    }
    assert all(two["ILM-VP"].startswith("**80.0") for two in cells[RESNET].values())
    assert "The deviation of a single seed is not known" in rest
    cells, _ = table("--datasets", "dtd")
    dtd = {"RLM-VP": "76.0", "FLM-VP": "**76.5**", "ILM-VP": "**80.0**", "EVP": "**80.0**"}
    assert cells[RESNET]["dtd"] == dtd
    assert "single seed" not in table("--datasets", "svhn")[1]
    assert "Bold" not in table("--methods", "cnn/ilm_vp")[1]


def test_runs_of_different_epochs_are_not_compared(receipt, table):
    for method, epoch, accuracy in (("ilm_vp", 200, 0.9), ("ilm_vp", 2, 0.9), ("flm_vp", 2, 0.1)):
        receipt(f"cnn/{method}", "dtd", 7, accuracy, epoch=epoch)
    receipt("cnn/ilm_vp", "svhn", 7, 0.9, epoch=2)
    receipt("cnn/flm_vp", "svhn", 7, 0.1, epoch=2)
    tables, rest = table()
    several = {"FLM-VP (epoch 2)": "10.0", "ILM-VP (epoch 200)": "90.0", "ILM-VP (epoch 2)": "90.0"}
    assert tables[RESNET]["dtd"] == several and tables[RESNET]["svhn"]["ILM-VP (epoch 2)"] == "**90.0**"
    assert "- Nothing is bold where the epochs differ (--epochs N shows the runs of one number): dtd." in rest
    tables, rest = table("--epochs", 2)
    assert tables[RESNET]["dtd"] == {"FLM-VP": "10.0", "ILM-VP": "**90.0**"} and "differ (" not in rest
    with pytest.raises(UserError, match="There are runs of 2, 200"):
        table("--epochs", 3)


def test_what_trains_nothing_is_compared_with_every_number_of_epochs(receipt, table):
    receipt("clip/zero_shot", accuracy=0.9)
    receipt("clip/vp", accuracy=0.1, epoch=3)
    assert table("--epochs", 3)[0][CLIP]["dtd"] == {"ZS": "**90.0**", "VP": "10.0"}


def test_the_number_of_test_images_is_in_the_table(receipt, run_script):
    receipt("cnn/ilm_vp", "dtd", 7, result={"test_size": 1692})
    receipt("cnn/ilm_vp", "svhn", 7, result={"test_size": 0})
    text = run_script("tools/results_table", "--datasets", "dtd", "svhn", "gtsrb")
    heads, _, *rows = (line.split("|") for line in text.splitlines() if line.startswith("|"))
    assert heads[2].strip() == "test images" and [row[2].strip() for row in rows] == ["1692", "-", "-"]
    text = run_script("tools/results_table", "--datasets", "dtd", "svhn", "gtsrb", "--format", "csv")
    assert [row["test images"] for row in csv.DictReader(io.StringIO(text))] == ["1692", "", ""]


def test_settings_have_columns_of_their_own_and_what_all_share_is_said_once(receipt, table):
    for seed, flags in ((7, {}), (8, {}), (7, {"train_fraction": 0.1}), (7, {"shots": 4, "lr": 0.5})):
        receipt("cnn/ilm_vp", "dtd", seed, seed / 10, epoch=2, **flags)
    receipt("cnn/evp", "dtd", 7, 0.1, epoch=2)
    tables, rest = table()
    assert list(tables[RESNET]["dtd"]) == ["ILM-VP", "ILM-VP (lr 0.5, shots 4)", "ILM-VP (train-fraction 0.1)", "EVP"]
    assert tables[RESNET]["dtd"]["ILM-VP"] == "**75.0 ± 7.1**"
    assert rest.endswith("All trained with: epoch 2.")
    receipt("cnn/ilm_vp", "dtd", 9, 0.9, epoch=200)
    tables, rest = table()
    assert "All trained with" not in rest
    assert {"ILM-VP (epoch 2)", "ILM-VP (epoch 200)"} < set(tables[RESNET]["dtd"])
    assert tables[RESNET]["dtd"]["ILM-VP (epoch 200)"] == "90.0 (n = 1)"


def test_runs_of_one_name_that_are_not_one_experiment(receipt, table):
    receipt("cnn/ilm_vp", "dtd", 7, 0.5, result={"classes": 47, "test_size": 1692})
    receipt("cnn/ilm_vp", "dtd", 8, 0.9, result={"classes": 10, "test_size": 360})
    receipt("cnn/ilm_vp", "flowers102", 7, 0.4)
    copy = receipt("cnn/ilm_vp", "flowers102", 7, 0.8, name="z-copy")
    receipt("cnn/ilm_vp", "svhn", 7, 0.2)
    receipt("cnn/ilm_vp", "svhn", 8, 0.2, device="cuda", precision="float16")  # what `auto` is there
    tables, rest = table()
    cells = {row: cells["ILM-VP"] for row, cells in tables[RESNET].items()}
    dtd = {"dtd": "50.0 (n = 1)", "published dtd": "35.3", "dtd (10 classes, 360 test images)": "90.0 (n = 1)"}
    assert cells == {"svhn": "20.0 ± 0.0", **dtd, "flowers102": "40.0 (n = 1)"}
    assert f"- Second runs of one seed, left out: {copy}." in rest
    assert "- Averaged over several values of a flag: ILM-VP on svhn (precision)." in rest


def test_a_network_without_a_run_of_what_is_asked_has_no_table(receipt, table):
    receipt("cnn/ilm_vp", "dtd")
    receipt("cnn/flm_vp", "dtd", network="resnet50")
    assert list(table("--methods", "cnn/ilm_vp", "--datasets", "dtd")[0]) == [RESNET]


def test_what_black_boxes_were_asked_is_a_note(receipt, table):
    receipt("cnn/bar", seed=7, result={"calls": 4998, "images_asked": 60000})
    receipt("cnn/bar", seed=8, result={"calls": 5000, "images_asked": 59000})
    receipt("cnn/ilm_vp")
    _, rest = table()
    assert "- Questions of training, and images in them: BAR on dtd 5,000 (60,000)." in rest


def test_other_test_images_of_one_number_have_a_row_of_their_own(receipt, table):
    for seed, images in ((7, "9 images, aaa"), (8, "9 images, bbb"), (9, None)):  # None: an earlier version's
        receipt("cnn/ilm_vp", "dtd", seed, seed / 10, result={"data": {"test": images} if images else {}})
    cells = {row: cells["ILM-VP"] for row, cells in table()[0][RESNET].items()}
    assert cells == {"dtd": "85.0 ± 7.1", "dtd (other test images, aaa)": "70.0 (n = 1)"}


def test_a_script_of_the_users_own(receipt, table):
    receipt("cnn/my_method", epoch=3, strength=0.5)
    receipt("cnn/ilm_vp")
    assert list(table()[0][RESNET]["dtd"]) == ["ILM-VP (epoch 200)", "my_method (epoch 3, strength 0.5)"]


@pytest.mark.parametrize("status", ["running", "interrupted", "failed", None])
def test_unfinished_runs_are_left_out_and_counted(status, receipt, table):
    receipt("cnn/ilm_vp", "dtd", 7, 0.5)
    run = receipt("cnn/ilm_vp", "dtd", 8, 0.9, result={"status": status})
    receipt("cnn/ilm_vp", "flowers102", 8, 0.9, result={"status": status})
    if not status:
        (run / "result.json").unlink()
    tables, rest = table()
    assert tables[RESNET] == {"dtd": {"ILM-VP": "50.0"}}
    assert rest.strip().endswith("- Runs not finished, left out: 2.")


DAMAGED = {"cut": '{"seed": 7', "empty": "", "list": "[7]", "null": "null", "foreign": '{"a": 1}', "deep": "[" * 10**5}


@pytest.mark.parametrize("name", ["args.json", "result.json"])
@pytest.mark.parametrize("content", [*DAMAGED.values(), b"\xff\xfe\x00"], ids=[*DAMAGED, "bytes"])
def test_damaged_files_are_named_and_no_more(name, content, receipt, table):
    receipt("cnn/ilm_vp", "dtd", 7, 0.5)
    run = receipt("cnn/ilm_vp", "dtd", 8, 0.9)
    (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    tables, rest = table()
    assert tables[RESNET] == {"dtd": {"ILM-VP": "50.0"}}
    assert f"- Left out, {run}: " in rest


@pytest.mark.parametrize(
    "result",
    [{"test_acc_last": value} for value in (None, "0.5", float("nan"), 50, -0.1, [0.5])]
    + [{"seed": 9}, {"method": "cnn/flm_vp"}, {"epochs": 3}, {"network": "resnet50"}, {"command": "python 'x"}],
)
def test_receipts_that_cannot_be_are_named_and_left_out(result, receipt, table):
    receipt("cnn/ilm_vp", "dtd", 7, 0.5)
    run = receipt("cnn/ilm_vp", "dtd", 8, 0.9, result=result)
    tables, rest = table()
    assert tables[RESNET] == {"dtd": {"ILM-VP": "50.0"}}
    assert f"- Left out, {run}: " in rest


def test_no_validation_split_is_a_dash(receipt, table):
    receipt("cnn/ilm_vp", "svhn", 7, 0.5, result={"test_acc_at_best_val": None})
    receipt("cnn/ilm_vp", "dtd", 7, 0.5, result={"test_acc_at_best_val": 0.4, "test_acc_best": 0.6})
    receipt("cnn/ilm_vp", "flowers102", 7, 0.5)
    receipt("cnn/ilm_vp", "flowers102", 8, 0.5, result={"test_acc_at_best_val": None})  # no half of a mean either
    tables, rest = table("--metric", "at-best-val")
    assert {row: cells["ILM-VP"] for row, cells in tables[RESNET].items()} == {
        "svhn": "-",
        "dtd": "40.0",
        "flowers102": "-",
    }
    assert "- No validation split, hence a dash: ILM-VP on svhn, ILM-VP on flowers102." in rest
    assert table("--metric", "best")[0][RESNET]["dtd"]["ILM-VP"] == "60.0 (n = 1)"


# Headlines ----------------------------------------------------------------------------------------------------------


def test_the_papers_differences_beside_ours(receipt, table):
    for seed, ilm, flm in ((7, 0.30, 0.25), (8, 0.34, 0.26)):  # 32 - 25.5
        receipt("cnn/ilm_vp", "flowers102", seed, ilm)
        receipt("cnn/flm_vp", "flowers102", seed, flm)
    receipt("cnn/ilm_vp", "cifar100", 7, 0.3)
    receipt("cnn/flm_vp", "cifar100", 7, 0.2, epoch=2)
    receipt("cnn/ilm_vp", "flowers102", 7, 0.9, network="resnet50")
    receipt("cnn/flm_vp", "flowers102", 7, 0.1, network="resnet50")
    receipt("clip/ilm_tp_vp", "dtd", 7, 0.4, epoch=3)
    receipt("clip/single_tp_vp", "dtd", 7, 0.5, epoch=3)
    found = [line for line in table()[1].splitlines() if "published" in line]
    paper, none = "published (Chen et al., CVPR 2023, abstract).", ", none within its spread"
    assert found == [
        f"- ILM-TP-VP over single-TP-VP, dtd: -10.0 here (n = 1{none}), +7.1 {paper}",
        f"- ILM-VP over FLM-VP, flowers102: +6.5 here (n = 2{none}), +7.9 {paper}",
    ]


def test_a_difference_within_the_spread_is_called_none(receipt, table):
    """20 test images: errors of 10.2 and 9.7 points, so 6 points are none. 20,000: errors of 0.32 and 0.31."""
    for images in (20, 20_000):
        for method, accuracy in (("ilm_vp", 0.31), ("flm_vp", 0.25)):
            receipt(f"cnn/{method}", "flowers102", 7, accuracy, result={"test_size": images})
        assert ("+6.0 here (n = 1, none within its spread), +7.9" in table()[1]) is (images == 20)
        shutil.rmtree(cfg.results_path)


def test_evps_average_needs_all_of_its_data_sets(receipt, table):
    twelve = "cifar100 cifar10 flowers102 food101 eurosat sun397 ucf101 svhn oxfordpets dtd resisc45 clevr".split()
    for number, name in enumerate(twelve):
        receipt("clip/evp", name, 42, 0.8 + number % 2 / 100)  # 0.80, 0.81, 0.80, ...
        receipt("clip/vp", name, 7, 0.7)
        if name not in ("sun397", "clevr"):
            receipt("clip/linear_probing", name, 7, 0.75)
    found = [line for line in table()[1].splitlines() if "published" in line]
    paper = "published (Wu et al., TMLR 2024, abstract)."
    assert found == [
        f"- EVP, mean of 12 data sets: 80.5 here (n = 1), 82.8 {paper}",
        f"- EVP over VP, mean of 12 data sets: +10.5 here (n = 1), +5.6 {paper}",
        f"- EVP over LP, mean of 12 data sets: not computed, missing sun397, clevr; +2.1 {paper}",
    ]


def test_evps_data_sets_are_those_of_the_shell_loops():
    (names,) = re.findall(
        r'^evp_datasets="(.*)"$', (ROOT / "experiments/reproduce/common.sh").read_text(), re.MULTILINE
    )
    assert {figure.datasets for figure in METHODS["clip/evp"].headlines} == {tuple(names.split())}


# Formats ------------------------------------------------------------------------------------------------------------


def test_csv_parses_back(receipt, run_script, capsys):
    for seed, accuracy in {7: 0.5, 8: 0.7}.items():
        receipt("cnn/ilm_vp", 'a,b "c"', seed, accuracy, epoch=2)
    receipt("clip/zero_shot", "dtd", 7, 0.25)
    run = receipt("clip/zero_shot", "dtd", 8, result={"status": "failed"})
    (receipt("clip/zero_shot", "dtd", 9) / "args.json").write_text("{")
    rows = list(csv.DictReader(io.StringIO(run_script("tools/results_table", "--format", "csv"))))
    zs, ilm = "ZS", "ILM-VP (epoch 2)"
    assert rows == [
        {"network": CLIP, "data set": "dtd", "test images": "20"}
        | {zs: "25.0", f"{zs} std": "", f"{zs} n": "1", f"{zs} bold": ""}
        | {ilm: "", f"{ilm} std": "", f"{ilm} n": "0", f"{ilm} bold": ""},
        {"network": RESNET, "data set": 'a,b "c"', "test images": "20"}
        | {zs: "", f"{zs} std": "", f"{zs} n": "0", f"{zs} bold": ""}
        | {ilm: "60.0", f"{ilm} std": "14.1", f"{ilm} n": "2", f"{ilm} bold": ""},
    ]
    told = capsys.readouterr().err
    assert "Runs not finished, left out: 1." in told
    assert f"Left out, {run.parent}" in told


def test_latex_is_balanced_and_escaped(receipt, run_script):
    name = r"[a]_b & 50% of #{1} $x$ ~ ^ \n <i>"
    receipt("cnn/ilm_vp", name, 7, 0.5, name="a", template="{} | x_1", epoch=2)
    receipt("cnn/flm_vp", name, 7, 0.4, name="a", epoch=2)
    receipt("cnn/flm_vp", name, 8, 0.5, name="b", epoch=2)
    text = run_script("tools/results_table", "--format", "latex")
    lines = text.splitlines()
    assert r"{[}a]\_b \& 50\% of \#\{1\} \$x\$ \textasciitilde{} \textasciicircum{} \textbackslash{}n" in text
    assert r"data set & test images & FLM-VP & ILM-VP (template \{\} | x\_1) \\" in lines
    assert lines[lines.index(r"\midrule") + 1].endswith(r" & 20 & \textbf{45.0 $\pm$ 7.1} & \textbf{50.0 (n = 1)} \\")
    stack = []
    for kind, environment in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        assert stack.append(environment) is None if kind == "begin" else stack.pop() == environment
    assert not stack
    bare = re.sub(r"\\[\\&%$#_{}]", "", re.sub(r"(?m)^%.*$", "", text))
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[%#_~^<>±]", bare.replace(r"\textasciitilde", ""))
    assert [line.count("&") for line in bare.splitlines() if "&" in line] == [3, 3]
    assert r"\begin{tabular}{lccc}" in lines


def test_output_is_a_file_and_nothing_is_printed(receipt, run_script, tmp_path, capsys):
    receipt("cnn/ilm_vp", "a|b")
    capsys.readouterr()
    text = run_script("tools/results_table", "--output", tmp_path / "table.md")
    assert capsys.readouterr().out == ""
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == text
    assert r"| a\|b " in text
    with pytest.raises(RunError, match="no folder"):
        run_script("tools/results_table", "--output", tmp_path / "none" / "table.md")


# Missing runs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def missing(run_script, capsys):
    def make(*flags) -> list[str]:
        capsys.readouterr()
        text = run_script("tools/results_table", *flags, "--missing")
        assert capsys.readouterr().out == text
        return text.splitlines()

    return make


def test_the_commands_of_what_is_missing(receipt, missing, monkeypatch):
    monkeypatch.chdir(ROOT)
    receipt("cnn/ilm_vp", "dtd", 7, epoch=2)
    receipt("cnn/ilm_vp", "flowers102", 8, epoch=2)
    receipt("cnn/flm_vp", "dtd", 7, epoch=2)
    receipt("cnn/flm_vp", "dtd", 8, epoch=2, workers=2, result={"status": "running"})
    receipt("cnn/rlm_vp", "svhn", 9, lr=0.5, result={"status": "interrupted"})
    (receipt("cnn/ilm_vp", "flowers102", 7, epoch=2) / "result.json").write_text("{")
    line = "python experiments/cnn/{}.py --network resnet18 --dataset {} --seed {} --epoch 2".format
    assert missing() == [
        line("flm_vp", "dtd", 8) + " --workers 2",
        line("ilm_vp", "dtd", 8),
        line("flm_vp", "flowers102", 7),
        line("flm_vp", "flowers102", 8),
        line("ilm_vp", "flowers102", 7),
        "python experiments/cnn/rlm_vp.py --network resnet18 --dataset svhn --seed 9 --lr 0.5",
    ]
    words = ("--datasets", "dtd", "gtsrb", "--methods", "cnn/ilm_vp", "cnn/evp", "--seeds", 7)
    evp = "python experiments/cnn/evp.py --network resnet18 --dataset {} --seed 7".format
    assert missing(*words) == [evp("dtd"), line("ilm_vp", "gtsrb", 7), evp("gtsrb")]


@pytest.mark.parametrize("files", [True, False])
def test_the_commands_of_a_clip(files, receipt, missing, monkeypatch):
    """The run was typed in another folder, with relative paths, with --flag=value, and with spaces in a flag."""
    clip = {"pretrained": "/a b/c.pt", "clip_config": "/a b/c.json"}
    run = receipt("clip/evp", "dtd", 42, template="a {}", **(clip if files else {}))
    where = "--pretrained=c.pt --clip-config c.json" if files else "--clip-model ViT-B-32-quickgelu"
    typed = f"python ../x/evp.py {where} --dataset=dtd --template 'a {{}}' --device cpu"
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"command": typed}))
    monkeypatch.chdir(ROOT / "tests")
    whole = "--pretrained '/a b/c.pt' --clip-config '/a b/c.json'" if files else "--clip-model ViT-B-32-quickgelu"
    assert missing("--datasets", "svhn") == [
        f"python ../experiments/clip/evp.py {whole} --dataset svhn --template 'a {{}}' --device cpu --seed 42"
    ]
    which = "--clip-config '/a b/c.json' --pretrained '/a b/c.pt'" if files else f"{whole} --pretrained openai"
    vp = f"python ../experiments/clip/vp.py {which} --dataset dtd --seed 42"
    assert missing("--methods", "clip/vp", "cnn/evp") == [vp]
    assert missing(cfg.results_path, "--methods", "clip/vp") == [vp]
    moved = cfg.results_path.rename(cfg.results_path.with_name("my results"))
    assert missing(moved, "--methods", "clip/vp") == [f"VP_RESULTS_PATH='{moved}' {vp}"]


def test_what_is_missing_can_be_typed_and_is_there_then(run_script, words, missing, table):
    ilm, flm = "experiments/cnn/ilm_vp", "experiments/cnn/flm_vp"
    run_script(ilm, *words(ilm), "--epoch", 1, "--seed", 8)
    expected = run_script(flm, *words(flm), "--epoch", 1, "--lr", "0.5")
    lines = missing()
    assert len(lines) == 2
    for line in lines:
        python, script, *flags = shlex.split(line)
        assert python == "python"
        run_script(script.removesuffix(".py"), *flags)
    assert missing() == []
    cells = table()[0]["tiny"]["small"]
    assert "(n = " not in str(cells)
    assert list(cells) == ["FLM-VP (lr 0.5)", "ILM-VP"]
    assert missing("--seeds", 7, "--methods", "cnn/flm_vp") == []
    (again,) = missing("--seeds", 9, "--methods", "cnn/flm_vp")
    assert expected["command"].endswith("--epoch 1 --lr 0.5")
    assert again == f"{expected['command']} --seed 9"


# Mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--network", "resnet81"), "Did you mean --network resnet18?"),
        (("--methods", "ilm_vp"), "cnn/ilm_vp"),
        (("--methods", "clip/evp"), "its network is not known"),
        (("--metric", "first"), "at-best-val"),
        (("--seeds", "x"), "whole number from 0"),
        (("--seeds", 8, "--datasets", "dtd", "--methods"), "expected at least one argument"),
        (("none",), "There is none, nor such a folder."),
        ((".",), "There is none."),
    ],
)
def test_a_mistake_is_one_message_of_three_lines(flags, message, receipt, run_script, tmp_path, monkeypatch):
    receipt("cnn/ilm_vp")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        run_script("tools/results_table", *flags)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3


def test_no_finished_run(receipt, run_script):
    run = receipt("cnn/ilm_vp", result={"status": "running"})
    with pytest.raises(UserError, match="resnet18: Runs not finished, left out: 1"):
        run_script("tools/results_table")
    (run / "args.json").write_text("{")
    with pytest.raises(UserError, match="It is damaged"):
        run_script("tools/results_table")


def test_the_validation_accuracy_chooses_a_setting(receipt, table, capsys):
    """It is not of the test images, so their number counts for nothing, and no published number stands beside it."""
    for lr, accuracy in ((0.001, 0.6), (0.003, 0.61)):
        receipt("cnn/ilm_vp", "flowers102", 7, 0.5, lr=lr, result={"val_acc_last": accuracy})
    tables, text = table("--metric", "val")
    assert tables[RESNET]["flowers102"] == {"ILM-VP (lr 0.001)": "60.0", "ILM-VP (lr 0.003)": "**61.0**"}
    assert "validation accuracy in percent after the last epoch" in text and "published" not in text


def test_a_column_without_a_run_on_the_named_data_sets_is_left_out(receipt, table):
    receipt("cnn/ilm_vp", "dtd", 7, 0.5)
    receipt("cnn/ilm_vp", "svhn", 7, 0.5, lr=0.003)
    assert list(table("--datasets", "dtd")[0][RESNET]["dtd"]) == ["ILM-VP"]
    assert "RLM-VP" in table("--datasets", "dtd", "--methods", "cnn/ilm_vp", "cnn/rlm_vp")[0][RESNET]["dtd"]


def test_a_transposed_table_has_a_row_for_each_method(receipt, run_script, capsys):
    receipt("cnn/rlm_vp", "dtd", 7, 0.25, result={"test_size": 400})
    receipt("cnn/ilm_vp", "dtd", 7, 0.5, result={"test_size": 400})
    run_script("tools/results_table", "--transpose")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = dict(line[:2] for line in cells)
    assert rows["method"] == "dtd" and rows["test images"] == "400"
    assert (rows["RLM-VP"], rows["ILM-VP"]) == ("25.0", "**50.0**")
    run_script("tools/results_table", "--transpose", "--format", "latex")
    assert r"ILM-VP & \textbf{50.0}" in capsys.readouterr().out
