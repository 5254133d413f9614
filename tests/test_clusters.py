"""Clusters of images, the prompt of each, and which features are the classes (DAM-VP)."""

import pytest
import torch
from conftest import load_script, same
from sklearn.datasets import make_blobs
from tiny import network_of
from torch import nn

import cfg
from algorithms.clusters import cluster_means, first_features
from algorithms.label_mapping import most_varied_features
from algorithms.training import cosine_schedule
from errors import UserError
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.several_prompts import PromptsOfClusters
from models.visual_prompt import AdditiveVisualPrompt
from tools.common.prompt_flags import until
from tools.common.run_folder import RunFolder

POINTS = torch.tensor([[0.0, 0], [1, 0], [0, 2], [10, 0], [10, 1]])  # they merge at 1, 1, 2.118034 and 9.725529
IN_TWO = [[pytest.approx(1 / 3), pytest.approx(2 / 3)], [10, 0.5]]


@pytest.mark.parametrize(
    ("rule", "sizes"),
    [("distance:1.5", [2, 1, 2]), ("distance:3", [3, 2]), ("distance:12", [5]), ("2", [3, 2]), ("9", [1] * 5)],
)
def test_average_linkage(rule, sizes):
    means, counted = cluster_means(POINTS, **until(rule))
    assert counted.tolist() == sizes
    assert len(means) == len(sizes)
    if sizes == [3, 2]:
        assert means.tolist() == IN_TWO


@pytest.mark.parametrize(("threshold", "clusters"), [(2.11, 3), (2.13, 2), (9.72, 2), (9.73, 1)])
def test_where_clusters_merge(threshold, clusters):
    assert len(cluster_means(POINTS, threshold=threshold)[0]) == clusters


def test_clusters_stand_in_the_order_of_their_first_images():
    means, sizes = cluster_means(POINTS.flip(0), count=2)
    assert (means.tolist(), sizes.tolist()) == (IN_TWO[::-1], [2, 3])


def test_one_image_is_a_cluster():
    means, sizes = cluster_means(POINTS[:1], threshold=1.0)
    assert (means.tolist(), sizes.tolist()) == ([[0, 0]], [1])


def test_blobs_are_found():
    points, numbers, centers = make_blobs(60, 5, centers=4, cluster_std=0.1, random_state=3, return_centers=True)
    means, sizes = cluster_means(torch.tensor(points), threshold=2.0)
    order = dict.fromkeys(numbers.tolist())
    torch.testing.assert_close(means, torch.tensor(centers[[*order]]), atol=0.1, rtol=0)
    assert sizes.tolist() == [15] * 4


def test_the_first_images_and_no_more():
    batches, seen = ((torch.full((3, 2), float(number)), None) for number in range(9)), []

    def encode(x):
        torch.rand(1)  # as a loader that shuffles
        seen.append(len(x))
        return 2 * x

    state = torch.get_rng_state()
    features = first_features(encode, batches, 5)
    assert features[:, 0].tolist() == [0, 0, 0, 2, 2]
    assert seen == [3, 3]
    assert torch.equal(torch.get_rng_state(), state)


def test_the_features_that_vary_most():
    """Standard deviations 1.632993, 0, 3.265986, 1.632993."""
    features = torch.tensor([[1.0, 5, 0, 2], [3, 5, 4, -2], [5, 5, 8, 0]])
    assert most_varied_features(features, 3).tolist() == [0, 2, 3]
    assert most_varied_features(features, 1).tolist() == [2]


class Corner(nn.Module):
    """The two colours of an image's first pixel."""

    def forward(self, x):
        return x[:, :2, 0, 0]


def prompts_of(prototypes: list) -> PromptsOfClusters:
    prompts = PromptsOfClusters(AdditiveVisualPrompt(torch.ones(1, 1), torch.ones(3)), len(prototypes), 2)
    prompts.prototypes.copy_(torch.tensor(prototypes))
    return prompts


@pytest.mark.parametrize(
    ("prototypes", "features", "nearest"),
    [
        ([[1 / 3, 2 / 3], [10, 0.5]], [[5.0, 0], [6, 0.5]], [0, 1]),  # 4.714 and 5.025; 5.669 and 4.0
        ([[0.0, 1], [3, 3]], [[0.0, 0], [3, 4]], [0, 1]),
        (
            [[1000.0, 1000], [1000.001, 1000]],
            [[1000.0, 1000], [1000.001, 1000]],
            [0, 1],
        ),  # a^2 + b^2 - 2ab is 0 or less
    ],
)
def test_the_nearest_prototype(prototypes, features, nearest):
    images = torch.tensor([[*each, 0] for each in features]).view(-1, 3, 1, 1)
    assert prompts_of(prototypes).choose(Corner(), images).tolist() == nearest


def test_an_image_is_seen_under_its_clusters_prompt():
    prompts = prompts_of([[0.0, 1], [3, 3]])
    prompts.program.data = torch.tensor([[1.0, 0, 0], [0, -1, 0]]).view(2, 3, 1, 1)
    mapping = SelectLabels(2)
    mapping.set(torch.tensor([1, 0]))
    model = Prompted(prompts, network_of(Corner(), 2, 1), mapping)
    images = torch.tensor([[0.0, 0, 0], [3, 4, 0]]).view(2, 3, 1, 1)
    assert model.source_logits(images).tolist() == [[1, 0], [3, 3]]
    assert model(images).tolist() == [[0, 1], [3, 3]]
    assert model.seen(images)[:, :2, 0, 0].tolist() == [[1, 0], [3, 3]]
    model(images)[:, 0].sum().backward()
    assert prompts.program.grad[:, 1].flatten().tolist() == [1, 1]


def test_the_papers_schedule():
    """A fifth of 500 steps rises, then half a cosine falls."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = cosine_schedule(optimizer, 500, warmup=100), []
    for _ in range(500):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert [rates[step] for step in (0, 99, 100, 300, 499)] == pytest.approx([0.01, 1, 1, 0.5, 1.542e-5], rel=1e-3)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("flags", [(), ("--head",)])
def test_evaluation_has_the_clusters_of_training(flags, words, run_script, capsys):
    script = "experiments/cnn/dam_vp"
    result = run_script(script, *words(script), "--epoch", 2, "--lr", 1, *flags)
    assert "Clusters of 24 training images: 3. The largest has " in capsys.readouterr().out
    (run,) = (cfg.results_path / "cnn/dam_vp").iterdir()
    saved = torch.load(run / "ckpt.pth", weights_only=True)
    state = saved["visual_prompt_dict"]
    assert state["prototypes"].shape == (3, 784)
    assert state["program"].shape == (3, 3, 64, 64)
    assert len(set(state["prototypes"].sum(1).tolist())) == 3
    assert run_script("tools/evaluate", "--checkpoint", run / "ckpt.pth")["acc"] == result["test_acc_last"]


@pytest.mark.usefixtures("small")
def test_a_heads_learning_rate_without_a_head(words):
    script = load_script("experiments/cnn/dam_vp")
    with pytest.raises(UserError, match=r"--head-lr 0.5(.|\n)*There is no --head"):
        script.main([*words("experiments/cnn/dam_vp"), "--head-lr", "0.5"])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("rule", ["0", "distance:0", "distance:", "far"])
def test_a_rule_for_clusters_that_is_none(rule, words):
    script = load_script("experiments/cnn/dam_vp")
    with pytest.raises(UserError, match=r"--clusters: a (whole )?number"):
        script.main([*words("experiments/cnn/dam_vp"), "--clusters", rule])


@pytest.mark.numeric
@pytest.mark.usefixtures("small")
def test_a_continued_run_keeps_its_clusters(words, run_script, monkeypatch, capsys):
    """Clustering could end otherwise on another machine, with another number of clusters; and it costs passes."""
    script = "experiments/cnn/dam_vp"
    flags = (*words(script), "--epoch", "3", "--lr", "1")
    whole = run_script(script, *flags)
    (run,) = (cfg.results_path / "cnn/dam_vp").iterdir()
    expected = torch.load(run / "ckpt.pth", weights_only=True)
    end_epoch = RunFolder.end_epoch

    def interrupt(self, epoch, record):
        end_epoch(self, epoch, record)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "end_epoch", interrupt)
    with pytest.raises(UserError):
        run_script(script, *flags, "--fresh")
    monkeypatch.setattr(RunFolder, "end_epoch", end_epoch)
    capsys.readouterr()
    module = load_script(script)
    for name in ("first_features", "cluster_means", "most_varied_features"):
        monkeypatch.setattr(module, name, None)
    again = module.main([*flags])
    assert "Clusters of" not in capsys.readouterr().out
    assert again["test_acc_last"] == whole["test_acc_last"]
    assert same(torch.load(run / "ckpt.pth", weights_only=True), expected)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"setup": {"method": "cnn/dam_vp"}, "visual_prompt_dict": {"prototypes": torch.ones(2, 9)}},
            "should belong to",
        ),
        ({"visual_prompt_dict": {}}, "should fit this run"),
    ],
)
def test_clusters_of_another_runs_checkpoint(change, message, words, run_script):
    script = "experiments/cnn/dam_vp"
    flags = (*words(script), "--epoch", "1")
    run_script(script, *flags)
    (run,) = (cfg.results_path / "cnn/dam_vp").iterdir()
    (run / "result.json").unlink()
    torch.save(torch.load(run / "ckpt.pth", weights_only=True) | change, run / "ckpt.pth")
    with pytest.raises(UserError, match=message):
        run_script(script, *flags)


@pytest.mark.usefixtures("small")
def test_a_damaged_checkpoint_is_told_once(words, run_script, capsys):
    """Its clusters are read first, and then its parts; both are those of the checkpoint before it."""
    script = "experiments/cnn/dam_vp"
    flags = (*words(script), "--epoch", "2", "--lr", "1")
    run_script(script, *flags)
    (run,) = (cfg.results_path / "cnn/dam_vp").iterdir()
    (run / "result.json").unlink()
    (run / "ckpt.pth").write_bytes((run / "ckpt.pth").read_bytes()[:999])
    capsys.readouterr()
    run_script(script, *flags)
    told = capsys.readouterr().out
    assert told.count("ckpt.pth is damaged") == 1
    assert "Continuing after epoch 1 of 2" in told
