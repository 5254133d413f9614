"""The published numbers: what is in the file, and where they stand beside one's own."""

from collections import Counter

import pytest
import test_results_table
from test_results_table import RESNET

from data.catalog import DATASETS
from models.network_source import NETWORKS
from tools.reporting.published import PUBLISHED, published_in, record
from tools.reporting.published_tables import TABLES

pytestmark = pytest.mark.usefixtures("small")
receipt, table, real = (getattr(test_results_table, name) for name in ("receipt", "table", "real"))
DTD, FLOWERS = {"classes": 47, "test_size": 1692}, {"classes": 102, "test_size": 2463}


def test_every_number_is_an_accuracy_of_a_known_network_and_data_set():
    cells = Counter((row.network, row.dataset, row.method, row.setting) for row in PUBLISHED)
    assert set(cells.values()) == {1}
    assert {row.dataset for row in PUBLISHED} < {row.name for row in DATASETS}
    clips = {"ViT-B-16-openai", "ViT-B-32-openai", "RN50-openai", "RN101-openai"}
    assert {row.network for row in PUBLISHED} - NETWORKS.keys() == clips
    assert all(0 < row.accuracy < 100 and row.source.name and row.source.how for row in PUBLISHED)


def test_the_tables_are_whole():
    """ILM-VP's table has 13 data sets, SMM's 12, and 11 with other maps."""
    sizes = Counter((network, source.name) for network, source, *_ in TABLES)
    assert sizes["resnet18", "Cai et al., ICML 2024"] == 2
    counts = Counter((row.network, row.source.name) for row in PUBLISHED)
    ilm, smm = "Chen et al., CVPR 2023, main table", "Cai et al., ICML 2024"
    assert [counts[name, ilm] for name in ("resnet18", "resnet50", "instagram")] == [13 * 5, 13 * 4, 13 * 4]
    assert [counts[name, smm] for name in ("resnet18", "resnet50")] == [12 * 4 + 11 * 4, 12 * 4]


@pytest.mark.parametrize(
    ("network", "dataset", "method", "setting", "accuracy", "std"),
    [
        ("resnet18", "flowers102", "cnn/ilm_vp", (), 27.9, None),
        ("resnet18", "stanfordcars", "cnn/rlm_vp", (), 0.9, None),
        ("resnet18", "abide", "cnn/full_finetune", (), 60.6, None),
        ("resnet50", "svhn", "cnn/linear_probing", (), 63.5, None),
        ("instagram", "eurosat", "cnn/flm_vp", (), 87.8, None),
        ("resnet18", "cifar10", "cnn/smm", (), 72.8, 0.7),
        ("resnet18", "cifar10", "cnn/watermark_vp", ("width 28",), 68.6, 2.8),
        ("resnet18", "oxfordpets", "cnn/smm", ("mapping rlm",), 16.84, None),
        ("resnet50", "gtsrb", "cnn/watermark_vp", (), 76.5, None),
        ("ViT-B-16-quickgelu-openai", "gtsrb", "clip/zero_shot", (), 21.0, None),
        ("ViT-B-16-openai", "fgvc_aircraft", "clip/zero_shot", (), 24.7, None),
        ("ViT-B-16-quickgelu-openai", "dtd", "clip/dvp", ("shots 16", "val-shots 4", "attributes /x"), 65.5, None),
        ("ViT-B-16-quickgelu-openai", "dtd", "clip/dvp", ("causes 3", "shots 16"), 66.7, None),
        ("RN101-quickgelu-openai", "resisc45", "clip/rvp", ("shots 16",), 73.4, None),
        ("RN50-openai", "sun397", "clip/attr_vr", ("attr-method vp", "shots 16"), 48.8, None),
    ],
)
def test_a_few_numbers(network, dataset, method, setting, accuracy, std):
    found = published_in(network, dataset, method, setting)
    assert (found.accuracy, found.std) == (accuracy, std)


def test_the_means_that_the_paper_prints():
    """SMM's averages over 11 data sets, without the cars; RVP's over 11."""
    for network, method, mean in (
        ("resnet18", "Full", 46.85),
        ("resnet18", "SMM", 52.53),
        ("resnet18", "Narrow", 43.48),
        ("resnet18", "SMM+FLM", 50.73),
        ("resnet18", "SMM+RLM", 42.32),
        ("resnet50", "Full", 52.10),
        ("resnet50", "SMM", 56.35),
    ):
        rows = [row for row in PUBLISHED if (row.network, row.method) == (network, method)]
        values = [row.accuracy for row in rows if row.dataset != "stanfordcars"]
        assert sum(values) / 11 == pytest.approx(mean, abs=0.06)
    for network, *means in (  # VP, AR, AttrVR, DVP, RVP
        ("ViT-B-16-openai", 74.4, 76.5, 78.5, 79.7, 82.7),
        ("ViT-B-32-openai", 68.3, 66.3, 69.8, 71.0, 75.8),
        ("RN50-openai", 53.5, 60.4, 64.6, 66.0, 72.3),
        ("RN101-openai", 57.5, 62.7, 67.2, 68.8, 73.0),
    ):
        for method, mean in zip(("VP", "AR", "AttrVR", "DVP", "RVP"), means, strict=True):
            values = [row.accuracy for row in PUBLISHED if (row.network, row.method) == (network, method)]
            assert len(values) == 11 and sum(values) / 11 == pytest.approx(mean, abs=0.06)


RECORDS = {
    "resnet18": "cifar10 72.8 SMM, cifar100 39.4 SMM, svhn 85.4 SMM+RLM, gtsrb 82.4 SMM+RLM, flowers102 38.7 SMM,"
    " dtd 35.3 ILM-VP, ucf101 28.7 SMM, food101 17.5 SMM, sun397 16.0 SMM, eurosat 94.5 SMM+RLM, oxfordpets 74.1 SMM,"
    " stanfordcars 4.5 ILM-VP",
    "resnet50": "cifar10 81.4 SMM, cifar100 49.0 SMM, svhn 82.6 SMM, gtsrb 78.2 SMM, flowers102 35.9 SMM,"
    " dtd 41.1 SMM, ucf101 38.9 SMM, food101 19.8 SMM, sun397 22.9 SMM, eurosat 92.0 SMM, oxfordpets 78.1 SMM,"
    " stanfordcars 4.7 ILM-VP",
    "ViT-B-16-openai": "fgvc_aircraft 51.8 DGA, caltech101 96.5 RVP, stanfordcars 84.8 RVP, dtd 73.9 DGA,"
    " eurosat 94.1 DVP, flowers102 97.6 DGA, food101 85.9 AttrVR, oxfordpets 94.0 RVP, sun397 76.9 DGA,"
    " ucf101 85.1 RVP, resisc45 85.9 RVP",
}


@pytest.mark.parametrize("network", RECORDS)
def test_the_records(network):
    for dataset, accuracy, method in map(str.split, RECORDS[network].split(",")):
        best = record(network, dataset, ("shots 16",) if "ViT" in network else ())
        assert (f"{best.accuracy:.1f}", best.method) == (accuracy, method)
    assert record("resnet18", "dtd", ("shots 16",)) is None
    assert record("ViT-B-16-openai", "dtd", ()) is None  # without training is no prompt
    assert record("efficientnet_lite0", "dtd", ()) is None


# Beside one's own -----------------------------------------------------------------------------------------------------


def test_published_numbers_stand_below_ones_own(receipt, table):
    for method in ("flm_vp", "ilm_vp", "blm_vp"):
        receipt(f"cnn/{method}", "dtd", 7, 0.3, result=DTD)
    receipt("cnn/ilm_vp", "flowers102", 7, 0.3, epoch=200, lr=0.5, result=FLOWERS)
    receipt("cnn/ilm_vp", "dtd", 7, 0.3, network="resnet34", result=DTD)
    tables, rest = table()
    other, best = {"ILM-VP (lr 0.5)": ""}, "best published prompt"
    beside = {"FLM-VP": "32.4", "ILM-VP": "35.3", "BLM-VP": "", best: "35.3 ILM-VP", **other}
    assert tables[RESNET]["published dtd"] == beside
    beside = {"FLM-VP": "20.0", "ILM-VP": "27.9", "BLM-VP": "", best: "38.7 ± 0.7 SMM", **other}
    assert tables[RESNET]["published flowers102"] == beside
    assert list(tables["resnet34"]) == ["dtd"] and best not in tables["resnet34"]["dtd"]
    chosen = "200 epochs, 3 seeds, best test epoch"
    assert f"- Published FLM-VP, ILM-VP: Chen et al., CVPR 2023, main table ({chosen})." in rest
    assert f"- Published SMM: Cai et al., ICML 2024 ({chosen})." in rest


def test_other_epochs_are_set_beside_but_not_parts_of_a_data_set(receipt, table):
    receipt("cnn/ilm_vp", "dtd", 7, 0.3, epoch=5, precision="bfloat16", result=DTD)
    receipt(
        "cnn/ilm_vp", "flowers102", 7, 0.3, epoch=5, precision="bfloat16", result={"classes": 89, "test_size": 1671}
    )
    tables, _ = table()
    assert list(tables[RESNET]) == ["dtd", "published dtd", "flowers102"]
    assert tables[RESNET]["published dtd"]["ILM-VP"] == "35.3"


def test_few_shots_are_set_beside_few_shots(receipt, table):
    clip = "ViT-B-16-quickgelu-openai"
    receipt("clip/vp", "dtd", 7, 0.3, network=clip, shots=16, result=DTD)
    receipt("clip/zero_shot", "flowers102", 7, 0.3, network=clip, result=FLOWERS)
    tables, _ = table()
    assert tables[clip]["published dtd"] == {"ZS": "44.4", "VP": "", "best published prompt": "73.9 DGA, shots 16"}


def test_corruptions_have_no_published_number(receipt, table):
    path = receipt("cnn/ilm_vp", "cifar10", 7, 0.3, result={"classes": 10, "test_size": 10000})
    (path / "corruptions.json").write_text('{"corruptions_acc": 0.2}')
    assert list(table("--metric", "corruptions")[0][RESNET]) == ["cifar10"]
    assert list(table()[0][RESNET]) == ["cifar10", "published cifar10"]


def test_csv_has_them_too(receipt, run_script):
    receipt("cnn/ilm_vp", "dtd", 7, 0.3, result=DTD)
    receipt("cnn/blm_vp", "dtd", 7, 0.3, result=DTD)
    head, row = run_script("tools/results_table", "--format", "csv").splitlines()
    found = dict(zip(head.split(","), row.split(","), strict=True))
    assert (found["ILM-VP published"], found["best published prompt"]) == ("35.3", "35.3 ILM-VP")
    assert "BLM-VP published" not in found and found["test images"] == "1692"
