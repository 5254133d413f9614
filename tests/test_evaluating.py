"""evaluate.py: the accuracy under attack, calibration, and what a report shows of both."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from make_data import make_corruptions
from test_experiments import SMALL, checkpoint, only_run
from test_pieces import InPieces
from tiny import network_of
from torch import nn

from algorithms.attack import AttackedLoader, log_odds_of_error, pgd
from algorithms.calibration import Reliability, fit_temperature
from data.catalog import find_dataset
from data.loaders import build_loader
from data.transforms import restore_transforms
from errors import UserError
from models.networks import CPU
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.restore import restore
from models.visual_prompt import ExpansiveVisualPrompt
from tools.common.flag_types import pixel_distance
from tools.evaluating.attacking import WithoutPrompt

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("small")]
ILM_VP = "experiments/cnn/ilm_vp"


@pytest.fixture
def trained(run_script):
    """The best.pth of a short run of ilm_vp.py."""
    run_script(ILM_VP, *SMALL, "--epoch", 2)
    return only_run(ILM_VP) / "best.pth"


def restored(file) -> tuple[nn.Module, list]:
    content = checkpoint(file)
    return restore(content, content["setup"], CPU), restore_transforms(content["setup"], None)


def loader_of(split, transforms, batch_size: int = 128):
    how = {"batch_size": batch_size, "device": torch.device("cpu"), "workers": 0, "cache_folder": None}
    return build_loader(split, transforms, "test", **how)


# The attack ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        ILM_VP,
        "experiments/cnn/linear_probing",
        *(
            pytest.param(f"experiments/{script}", marks=pytest.mark.slow)
            for script in ("cnn/smm", "cnn/full_finetune", "clip/evp", "clip/attr_vr", "clip/linear_probing")
        ),
    ],
)
def test_the_accuracy_under_attack_is_that_of_attacking_batch_by_batch(script, run_script, words, float64):
    run_script(script, *words(script), "--epoch", 2)
    saved = only_run(script) / "best.pth"
    flags = ("--checkpoint", saved, "--attack", "pgd", "--batch-size", 7)
    found = run_script("tools/evaluate", *flags, "--eps", "20/255", "--steps", 3, "--attack-seed", 5)

    model, transforms = restored(saved)
    right, loss = 0, 0.0
    for number, (images, labels) in enumerate(loader_of(find_dataset("small").read().test, transforms, 7)):
        torch.manual_seed(5 * 1_000_003 + number)
        attacked = pgd(lambda x, y=labels: F.cross_entropy(model(x), y), images, eps=20 / 255, steps=3)
        assert 0 < (attacked - images).abs().max() <= 20 / 255
        right += (model(attacked).argmax(1) == labels).sum().item()
        loss += F.cross_entropy(model(attacked), labels, reduction="sum").item()
    assert found["attack_acc"] == pytest.approx(right / 20)
    assert found["attack_loss"] == pytest.approx(loss / 20, rel=1e-6)
    clean = run_script("tools/evaluate", "--checkpoint", saved)
    assert found["acc"] == clean["acc"] and found["attack_loss"] > clean["loss"]


def test_an_attack_of_eps_0_changes_nothing(float64, trained, run_script):
    found = run_script("tools/evaluate", "--checkpoint", trained, "--attack", "pgd", "--eps", 0, "--steps", 1)
    assert (found["attack_acc"], found["attack_loss"]) == (found["acc"], pytest.approx(found["loss"], rel=1e-12))


@pytest.fixture
def parts(float64):
    """A prompted model whose border is shared, a batch of 8 x 8 images, labels."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 22 * 22, 5))
    model = Prompted(ExpansiveVisualPrompt(8, 24), network_of(body, 5, 24), SelectLabels(3)).eval()
    model.prompt.program.data.normal_()
    model.mapping.set(torch.tensor([4, 0, 2]))
    return model, torch.rand(9, 3, 8, 8), torch.randint(3, (9,))


def attacked_by(model, images, labels, **how):
    ((attacked, _),) = AttackedLoader([(images, labels)], model, eps=0.05, steps=4, **how)
    return attacked


def test_pieces_and_the_shared_border_change_no_attacked_image(parts):
    model, images, labels = parts
    assert model.shares_border
    one = attacked_by(model, images, labels)
    model.shares_border = False
    assert torch.allclose(attacked_by(model, images, labels), one, rtol=0, atol=1e-9)
    assert torch.allclose(attacked_by(model, images, labels, pieces=InPieces(4)), one, rtol=0, atol=1e-9)


def test_each_pass_draws_the_same_starts_and_leaves_the_generator_alone(parts):
    model, images, labels = parts
    before = torch.get_rng_state()
    loader = AttackedLoader([(images, labels)] * 2, model, eps=0.05, steps=0)
    (one, _), (two, _) = loader
    assert torch.equal(next(iter(loader))[0], one) and not torch.equal(one, two)
    assert not torch.equal(attacked_by(model, images, labels, seed=1), attacked_by(model, images, labels))
    assert torch.equal(torch.get_rng_state(), before) and len(loader) == 2


def test_an_attacker_without_the_prompt_sees_network_and_map(parts):
    model, images, labels = parts
    bare = WithoutPrompt(model)
    enlarged = F.interpolate(images, (24, 24), mode="bilinear")
    assert torch.allclose(bare(images), model.network(enlarged)[:, [4, 0, 2]], atol=1e-12)
    one = attacked_by(bare, images, labels)
    assert not torch.equal(one, attacked_by(model, images, labels))
    model.prompt.program.data.fill_(float("nan"))
    assert torch.equal(attacked_by(bare, images, labels), one)


def test_with_the_identity_map_it_is_c_avps_attack(float64):
    """Images as large as the network's input, whose own labels are the data set's."""
    torch.manual_seed(0)
    network = network_of(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 4)), 4, 4)
    model = Prompted(ExpansiveVisualPrompt(4, 4), network, SelectLabels(4))
    model.mapping.set(torch.arange(4))
    images, labels = torch.rand(6, 3, 4, 4), torch.randint(4, (6,))
    torch.manual_seed(0)
    expected = pgd(lambda x: F.cross_entropy(network(x), labels), images, eps=0.05, steps=4)
    assert torch.equal(attacked_by(WithoutPrompt(model), images, labels), expected)


def test_an_attacker_without_the_prompt_is_named(trained, run_script, capsys):
    found = run_script("tools/evaluate", "--checkpoint", trained, "--attack", "pgd", "--attack-without-prompt")
    assert 0 <= found["attack_acc"] <= 1
    printed = capsys.readouterr().out
    assert "The attacker sees network and map, not the prompt." in printed and "C-AVP" in printed
    assert "PGD, 20 steps, eps 4/255, seed 0" in printed


def test_the_receipt_has_the_attack_and_another_one_is_computed_anew(trained, run_script, tmp_path, capsys):
    kept = tmp_path / "attack.json"
    words = ["tools/evaluate", "--checkpoint", trained, "--attack", "pgd", "--output", kept, "--steps", 2]
    found = run_script(*words)
    content = json.loads(kept.read_text())
    assert content.items() >= found.items()
    settings = {"attack": "pgd", "eps": 4 / 255, "steps": 2, "seed": 0, "attacker_sees": "network, prompt and map"}
    assert content["attack"] == settings
    capsys.readouterr()
    run_script(*words, "--eps", "4/255")
    printed = capsys.readouterr().out
    assert "is of this checkpoint" in printed and f"Accuracy under attack {found['attack_acc']:.4f}" in printed
    run_script(*words[:5])  # without --output
    for more in (["--eps", "0.1"], ["--attack-seed", "1"], ["--attack-without-prompt"]):
        capsys.readouterr()
        run_script(*words, *more)
        assert "is of this checkpoint" not in capsys.readouterr().out
    assert json.loads(kept.read_text())["attack"]["attacker_sees"] == "network and map, not the prompt"


def test_an_output_of_another_kind_is_not_replaced(trained, run_script, tmp_path):
    make_corruptions(tmp_path / "c", num_classes=4, each=6, side=32)
    kinds = {
        "--attack": ("--attack", "pgd", "--steps", 1),
        "--calibration": ("--calibration",),
        "--corruptions": ("--corruptions", tmp_path / "c"),
    }
    words = ("tools/evaluate", "--checkpoint", trained, "--output")
    for kind, flags in kinds.items():
        kept = tmp_path / "kept.json"
        run_script(*words, kept)
        run_script(*words, kept, *flags)  # it has all that was in the file, and more
        content = kept.read_bytes()
        for other in kinds.keys() - {kind}:
            with pytest.raises(UserError, match=f"It holds the result of {kind}, which would be lost"):
                run_script(*words, kept, *kinds[other])
        assert kept.read_bytes() == content
        kept.unlink()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--eps", "4/255"), "--eps: a setting of --attack"),
        (("--steps", 3, "--attack-without-prompt"), "Add --attack pgd, or leave --steps and --attack-without-prompt"),
        (("--eps", 0, "--steps", 0, "--attack-seed", 0), "--eps, --steps, --attack-seed: a setting of --attack"),
        (("--attack", "pgd", "--eps", "4"), "such as 4/255 or 0.0157, not '4'"),
        (("--attack", "pgd", "--steps", "-1"), "a whole number from 0"),
        (("--attack", "pgd", "--corruptions", "c"), "Type two commands"),
        (("--attack", "fgsm"), "invalid choice: 'fgsm'"),
        (("--calibration", "--output", "c.png"), "Type --output c.json"),
    ],
)
def test_flags_are_checked_before_anything_is_read(flags, message, run_script):
    with pytest.raises(UserError, match=message):
        run_script("tools/evaluate", "--checkpoint", "none.pth", *flags)


@pytest.mark.parametrize("text", ["4/0", "nan", "inf", "-1/255", "1.01", "", "4/255/2", "x"])
def test_a_distance_that_is_none(text):
    with pytest.raises(Exception, match="from 0 to 1 is needed"):
        pixel_distance(text)


def test_distances():
    assert [pixel_distance(text) for text in ("4/255", "0.0157", "1e-2", "0", "1")] == [4 / 255, 0.0157, 0.01, 0, 1]


def test_there_has_to_be_a_prompt_to_leave_out(run_script, words):
    script = "experiments/cnn/linear_probing"
    run_script(script, *words(script), "--epoch", 1)
    flags = ("--checkpoint", only_run(script) / "best.pth", "--attack", "pgd", "--attack-without-prompt")
    with pytest.raises(UserError, match="has no prompt"):
        run_script("tools/evaluate", *flags)


# Calibration --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def logits_of(file, split) -> tuple[torch.Tensor, torch.Tensor]:
    model, transforms = restored(file)
    ((images, labels),) = loader_of(split, transforms)
    return model(images), labels


def test_calibration_by_hand(float64, trained, run_script, capsys):
    kept = trained.with_name("calibration.json")
    found = run_script("tools/evaluate", "--checkpoint", trained, "--calibration", "--output", kept)
    splits = find_dataset("small").read()
    temperature = fit_temperature(*logits_of(trained, splits.val))
    errors = []
    for each in (1.0, temperature):
        reliability = Reliability(each)
        reliability(*logits_of(trained, splits.test))
        errors.append(reliability.error)
    assert found["calibration"]["temperature"] == pytest.approx(temperature, rel=1e-5)
    assert [found["ece"], found["calibration"]["ece"]] == pytest.approx(errors, abs=1e-6)
    assert found["calibration"]["val_size"] == 12
    assert sum(one["images"] for one in found["calibration"]["bins"]) == 20
    printed = capsys.readouterr().out
    assert f"Temperature {temperature:.4f}, fitted on 12 validation images" in printed
    assert kept.with_suffix(".png").is_file() and json.loads(kept.read_text()).items() >= found.items()
    assert run_script("tools/evaluate", "--checkpoint", trained)["ece"] == found["ece"]  # without the flag, too
    again = run_script("tools/evaluate", "--checkpoint", trained, "--calibration", "--output", kept)
    assert again["calibration"] == found["calibration"] and "is of this checkpoint" in capsys.readouterr().out


def test_the_test_split_is_not_fitted_on(small, trained, run_script, capsys):
    shutil.rmtree(small / "val")
    found = run_script("tools/evaluate", "--checkpoint", trained, "--calibration")
    assert found["calibration"]["temperature"] is None and found["calibration"]["ece"] == found["ece"]
    assert "No temperature is fitted. small has no validation split." in capsys.readouterr().out


def test_a_validation_split_of_the_run_is_drawn_again_or_not_used(small, run_script, tmp_path):
    shutil.rmtree(small / "val")
    run_script(ILM_VP, *SMALL, "--epoch", 1, "--val-fraction", 0.5, "--seed", 3)
    saved = only_run(ILM_VP) / "best.pth"
    words = ("tools/evaluate", "--checkpoint", saved, "--calibration")
    found = run_script(*words)["calibration"]
    own = find_dataset("small").read(val_fraction=0.5, seed=3).val
    assert found["temperature"] == pytest.approx(fit_temperature(*logits_of(saved, own)), rel=1e-4)
    assert found["val_size"] == 12
    alone = shutil.copy(saved, tmp_path / "alone.pth")  # without args.json nobody knows which images were kept
    assert run_script("tools/evaluate", "--checkpoint", alone, "--calibration")["calibration"]["temperature"] is None
    shutil.copy(next((small / "train" / "ant").iterdir()), small / "train" / "ant" / "zz.png")
    changed = run_script(*words)["calibration"]
    assert changed["temperature"] is None and "training images have changed" in changed["no_temperature"]


# The report ---------------------------------------------------------------------------------------------------------


def test_the_report_shows_both(trained, run_script):
    calibrated = ("--calibration", "--output", trained.with_name("calibration.json"))
    result = run_script("tools/evaluate", "--checkpoint", trained, *calibrated)
    attacked = ("--attack", "pgd", "--steps", 1, "--output", trained.with_name("attack.json"))
    run_script("tools/evaluate", "--checkpoint", trained, *attacked)
    page = run_script("tools/report").read_text(encoding="utf-8")
    for text in ("Reliability diagram", "<caption>Calibration", "<caption>Attack", "network, prompt and map"):
        assert text in page
    assert f"<td>{result['calibration']['temperature']:.4g}</td>" in page
    trained.with_name("attack.json").write_text("{")
    trained.with_name("calibration.json").write_text('{"acc": 1}')
    page = run_script("tools/report").read_text(encoding="utf-8")
    assert "attack.json cannot be read" in page and "calibration.json is not an evaluation" in page


def test_a_new_best_epoch_deletes_what_was_made_of_the_one_before(trained, run_script):
    names = ("attack.json", "calibration.json", "calibration.png")
    for name in names:
        trained.with_name(name).write_text("{}")
    run_script(ILM_VP, *SMALL, "--epoch", 2, "--fresh")
    assert not any(trained.with_name(name).exists() for name in names)


def test_the_log_odds_and_cross_entropy_attack_alike(parts):
    model, images, labels = parts
    torch.manual_seed(0)
    one = pgd(lambda x: F.cross_entropy(model(x), labels), images, eps=0.05, steps=4)
    torch.manual_seed(0)
    assert torch.equal(pgd(lambda x: log_odds_of_error(model(x), labels), images, eps=0.05, steps=4), one)
