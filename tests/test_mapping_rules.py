"""--mapping: each rule makes what the method's own script makes, when that makes it; other flags are refused."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import load_script, same
from test_experiments import SMALL, checkpoint, only_run

from algorithms.label_mapping import bayesian_label_mapping, frequency_label_mapping
from algorithms.mapping_rules import ALL_MAPPINGS, MAPPINGS, top_fraction
from errors import UserError
from models.output_mapping import LinearLabels, SelectLabels, WeightLabels, empty_mapping

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("small")]


@pytest.mark.parametrize(
    ("classes", "k"), [(2, 1), (6, 1), (7, 1), (10, 1), (37, 5), (43, 6), (47, 7), (100, 15), (102, 15), (397, 59)]
)
def test_how_many_source_labels_blmp_counts(classes, k):
    assert top_fraction(classes) == k


def test_the_output_mapping_fits_what_the_rule_makes():
    class Flags:
        sources, seed, unpredicted = 2, 7, "smallest"

    counts = torch.tensor([[2, 0], [1, 1], [0, 1], [0, 0]])
    for name, rule in MAPPINGS.items():
        Flags.sources = 2 if "sources" in rule.flags else 1
        mapping = empty_mapping(rule.kind, 4, 2, Flags.sources)
        assert mapping.set(rule.make(counts, Flags, mapping.sources)) == 1.0, name
        assert mapping(torch.rand(3, 4)).shape == (3, 2)
    assert [type(empty_mapping(kind, 4, 2)) for kind in ("index", "weights", "linear")] == [
        SelectLabels,
        WeightLabels,
        LinearLabels,
    ]
    Flags.sources, former = 2, torch.tensor([[3, 2], [1, 0]])
    assert torch.equal(MAPPINGS["ilm"].make(counts, Flags, former), frequency_label_mapping(counts, 2))
    Flags.unpredicted = "keep"
    assert torch.equal(MAPPINGS["ilm"].make(torch.zeros_like(counts), Flags, former), former)
    assert torch.equal(MAPPINGS["blmp"].make(counts, Flags, former), bayesian_label_mapping(counts))
    assert [name for name, rule in ALL_MAPPINGS.items() if rule.again] == ["ilm", "blm", "blmp"]


OWN = {name: f"experiments/cnn/{name}_vp" for name in MAPPINGS}


@pytest.mark.parametrize(
    "mapping", [pytest.param(name, marks=() if name in ("rlm", "blmp") else pytest.mark.slow) for name in OWN]
)
def test_a_chosen_mapping_equals_its_own_script(mapping, run_script):
    """auto_vp.py, given the image size and the learning rate of the mapping's own script: the same map and prompt."""
    flags = (*SMALL, "--epoch", 3, "--lr", 0.5, "--batch-size", 8)
    run_script(OWN[mapping], *flags)
    expected = checkpoint(only_run(OWN[mapping]) / "ckpt.pth")
    log = (only_run(OWN[mapping]) / "log.jsonl").read_text()
    module = load_script("experiments/cnn/auto_vp")
    own = ("--mapping", mapping, "--image-size", "112", "--scale", "1")  # 112 of 224 are 32 of 64
    module.main([*map(str, flags), *own])
    run = only_run("experiments/cnn/auto_vp")
    found = checkpoint(run / "ckpt.pth")
    for key in ("visual_prompt_dict", "mapping_sequence", "mapping_dict"):
        assert same(found.get(key), expected.get(key)), key
    logs = (log, (run / "log.jsonl").read_text())
    maps = [[json.loads(line).get("remapped") for line in text.splitlines()] for text in logs]
    assert maps[0] == maps[1] if mapping != "rlm" else maps == [[None] * 3, [1.0, None, None]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--mapping", "blm", "--sources", 3), "--sources 3: the mapping blm has no such setting"),
        (("--mapping", "flm", "--mapping-interval", 2), "These have it: ilm, blm, blmp"),
        (("--mapping", "flm", "--mapping-source", "train"), "the mapping flm has no such setting"),
        (("--mapping", "blmp", "--mapping-counts", "probabilities"), "These have it: flm, ilm, blm"),
        (("--mapping", "flm", "--unpredicted", "keep"), "--unpredicted keep: the mapping flm has no such setting"),
        (("--mapping", "rlm", "--sources", 2), "choose another --mapping"),
        (("--mapping", "full", "--pretrained", "laion400m_e32"), "These have it: semantic"),
        (("--mapping", "lp"), "invalid choice: 'lp'"),
    ],
)
def test_a_flag_that_the_mapping_does_not_heed_is_refused(flags, message, run_script):
    with pytest.raises(UserError, match=message):
        run_script("experiments/cnn/auto_vp", *SMALL, *flags)


def test_a_map_of_the_training_passes(run_script, monkeypatch):
    """--mapping-source and --mapping-interval as in ilm_vp.py; BLM+ counts the probabilities of one source label."""
    seen = []
    rule = ALL_MAPPINGS["blmp"]
    watched = replace(rule, make=lambda counts, *more: seen.append(counts) or rule.make(counts, *more))
    monkeypatch.setitem(ALL_MAPPINGS, "blmp", watched)
    flags = ("--mapping", "blmp", "--mapping-source", "train", "--mapping-interval", 2, "--epoch", 5)
    run_script("experiments/cnn/watermark_vp", *SMALL, *flags)
    assert [tuple(masses.shape) for masses in seen] == [(1000, 4)] * 3
    assert all(masses.dtype == torch.float64 and 0 < masses.sum() <= 24 for masses in seen)


def test_the_first_mapping_pass_is_in_eval_mode(run_script, monkeypatch):
    """Batch normalisation of a prompt moves in training alone."""
    modes = []
    module = load_script("experiments/cnn/smm")
    forward = module.SampleSpecificVisualPrompt.forward

    def watched(self, x):
        modes.append(self.training)
        return forward(self, x)

    monkeypatch.setattr(module.SampleSpecificVisualPrompt, "forward", watched)
    module.main([*SMALL, "--epoch", "1", "--batch-size", "24"])
    assert not modes[0] and modes.count(True) == 1 and not modes[-1]  # one batch of training among the other passes
    saved = checkpoint(only_run("experiments/cnn/smm") / "ckpt.pth")["visual_prompt_dict"]
    assert saved["mask_network.1.num_batches_tracked"] == 1
