"""The benchmark: what it measures and writes down, on a few tiny batches. How long things take is not tested."""

import json

import pytest
from conftest import load_script

from errors import UserError
from tools.common.machine import anonymous_memory

pytestmark = pytest.mark.numeric
FEW = "--network resnet18 --batch-size 2 --steps 1 --repeat 1 --train-images 5 --test-images 3".split()


@pytest.mark.slow
def test_rows(tmp_path, capsys):
    file = tmp_path / "benchmark.json"
    rows = load_script("tools/benchmark").main([*FEW, "--image-size", "40", "--json", str(file)])
    assert json.loads(file.read_text()) == rows
    assert [row["phase"] for row in rows] == ["training", "forward", "epoch"]
    for row in rows:
        assert (row["network"], row["image_size"]) == ("resnet18", 40)
        assert all(row[path] > 0 for path in ("plain", "dense", "fast"))
        slower, faster = ("plain", "fast") if row["phase"] == "epoch" else ("fast", "plain")
        assert row["ratio"] == pytest.approx(row[slower] / row[faster])
    assert rows[0]["dense_fraction_of_peak"] > 0 and rows[2]["loading_fraction"] > 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 4 and all("times" in line for line in told[1:])


def test_paths_do_the_same_work_in_their_own_way(tmp_path, float64):
    benchmark = load_script("tools/benchmark")
    args = benchmark.argparse.Namespace(precision="float32", device=benchmark.torch.device("cpu"), workers=0)
    args.batch_size, args.steps, args.gpu_cache_fraction = 2, 1, 0.0
    benchmark.write_photographs(tmp_path / "photographs", {"train": 6, "test": 4}, different=3)
    sides = {path: benchmark.Side(path, "resnet18", 32, tmp_path, args) for path in ("plain", "dense", "fast")}
    assert len(list((tmp_path / ".cache").glob("*.pixels"))) == 2
    assert [side.model.shares_border for side in sides.values()] == [False, False, True]
    counts = [side.forward(side.data.test) for side in sides.values()]
    assert all(count.sum() == 4 and count.equal(counts[0]) for count in counts)
    # ResNet-18 takes 1.81 G multiplications forward, as many backward but for the images' gradient (conv1 has one too)
    assert benchmark.image_flops(sides["plain"]) == pytest.approx(4 * 1.814e9, rel=0.01)


def test_memory(tmp_path):
    (row,) = load_script("tools/benchmark").main([*FEW, "--image-size", "16", "--memory"])
    assert row["phase"] == "memory"
    assert 0 < row["network_bytes"] <= 2 * anonymous_memory() and row["epoch_bytes"] > 0


MISTAKES = {
    "--network resnet81": "Did you mean --network resnet18?",
    "--network resnet18 --image-size 300": "300 pixels wide, the input 224",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes(words):
    with pytest.raises(UserError) as caught:
        load_script("tools/benchmark").main(words.split())
    assert MISTAKES[words] in str(caught.value)
