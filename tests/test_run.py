"""A run's folder under stress: two processes, Ctrl-C, SIGKILL, a full disk, damaged files."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest
import torch
from conftest import same
from tensorboard.backend.event_processing import event_accumulator
from test_experiments import SMALL, checkpoint, folder
from tiny import ROOT

import cfg
import tools.common.run
from algorithms import training
from errors import RunError, UserError
from tools.common import figures, plots
from tools.common.args import experiment_parser
from tools.common.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("small")
SCRIPT = "experiments/cnn/ilm_vp"


def start(*words: object, cwd: Path = ROOT) -> subprocess.Popen:
    environment = os.environ | {"VP_DATA_PATH": str(cfg.data_path), "VP_RESULTS_PATH": str(cfg.results_path)}
    command = [sys.executable, str(ROOT / "tests/tiny.py"), str(ROOT / f"{SCRIPT}.py"), *map(str, (*SMALL, *words))]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": cwd, "env": environment}
    # Tests that run in the background of a shell ignore Ctrl-C, and so would the process.
    return subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **how)


def without_times(result: dict) -> dict:
    return {name: value for name, value in result.items() if name not in ("seconds", "images_per_second")}


def wait_for_epoch(run: Path, process: subprocess.Popen, epochs: int = 2) -> None:
    deadline = time.monotonic() + 120
    while not (run / "log.jsonl").is_file() or len((run / "log.jsonl").read_text().splitlines()) < epochs:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_then_the_same_command(tmp_path):
    run = folder(SCRIPT, "tiny_small_seed7_epoch5000")
    process = start("--epoch", 5000, cwd=tmp_path)  # from another working directory, too
    wait_for_epoch(run, process)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert time.monotonic() - begin < 10
    assert "Traceback" not in err
    script = os.path.relpath(ROOT / f"{SCRIPT}.py", tmp_path)
    assert f"To continue: python {script} --network tiny --dataset small --epoch 5000" in err
    assert str(run / "ckpt.pth") in err
    assert json.loads((run / "result.json").read_text())["status"] == "interrupted"
    done = checkpoint(run / "ckpt.pth")["epoch"] + 1
    assert {"curves.png", "mapping.png", "prompt.png"} <= {path.name for path in run.iterdir()}

    process = start("--epoch", 5000)
    wait_for_epoch(run, process, done + 2)  # a line more than the log may have been ahead of the checkpoint
    process.kill()
    out, _ = process.communicate()
    assert f"Continuing after epoch {done} of 5000" in out


@pytest.fixture
def heat_maps(monkeypatch) -> list[tuple]:
    """What each heat map that is drawn shows: counts and source labels."""
    drawn, figure = [], plots.mapping_figure
    monkeypatch.setattr(plots, "mapping_figure", lambda *shown: drawn.append(shown[:2]) or figure(*shown))
    return drawn


def test_the_heat_map_shows_predictions_over_all_sources_and_among_the_targets():
    counts = torch.tensor([[3, 0], [0, 1], [0, 0], [1, 3]])  # (S,T): 4 images of each target
    confused = torch.tensor([[4, 1], [0, 3]])
    figure = plots.mapping_figure(
        counts, torch.tensor([[0], [1]]), confused, ["tench", "cock", "hen", "kite"], ["a", "b"]
    )
    left, right, _ = figure.axes
    assert left.images[0].get_array().tolist() == [[0.75, 0], [0, 0.25], [0.25, 0.75]]
    assert right.images[0].get_array().tolist() == [[1, 0.25], [0, 0.75], [0, 0]]
    assert [label.get_text() for label in left.get_yticklabels()] == ["tench", "cock", "(any other)"]
    assert [axes.get_title() for axes in (left, right)] == [
        "Most probable of all 4 source labels",
        "Most probable of the 2 targets: what accuracy counts",
    ]


def test_figures_are_drawn_now_and_then_and_at_the_end(run_script, heat_maps, monkeypatch):
    run_script(SCRIPT, *SMALL, "--epoch", 4)
    run = folder(SCRIPT, "tiny_small_seed7_epoch4")
    board = event_accumulator.EventAccumulator(str(run / "tensorboard")).Reload()
    assert [picture.step for picture in board.Images("mapping")] == [1, 4]
    assert [value.step for value in board.Scalars("test_acc")] == [1, 2, 3, 4]
    assert len(heat_maps) == 2
    assert all(int(counts.sum()) == 20 for counts, _ in heat_maps)  # test images: those of the last epoch alone
    assert torch.equal(heat_maps[1][1].flatten(), checkpoint(run / "ckpt.pth")["mapping_sequence"])
    seconds = [json.loads(line)["figure_seconds"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert min(seconds[0], seconds[3]) > max(seconds[1:3]) > 0

    monkeypatch.setattr(figures, "_SECONDS_BETWEEN_MAPS", 0)
    run_script(SCRIPT, *SMALL, "--epoch", 4, "--fresh")
    assert len(heat_maps) == 2 + 4


def test_an_interrupted_run_draws_its_last_map(run_script, heat_maps, monkeypatch):
    finished = []

    def stop(model, data, optimizer, scheduler, *, on_epoch_end, **how):
        def end(epoch, record):
            on_epoch_end(epoch, record)
            finished.append(model.mapping.index.clone())
            if epoch == 2:
                model.mapping.set(torch.arange(4))  # as if the next epoch had begun
                raise KeyboardInterrupt

        training.fit(model, data, optimizer, scheduler, on_epoch_end=end, **how)

    monkeypatch.setattr(tools.common.run, "fit", stop)
    with pytest.raises(UserError, match="To continue"):
        run_script(SCRIPT, *SMALL, "--epoch", 9)
    assert len(heat_maps) == 2 and int(heat_maps[1][0].sum()) == 20
    assert torch.equal(heat_maps[1][1].flatten(), finished[2])


@pytest.mark.slow
def test_sigkill_then_the_same_command_equals_uninterrupted(run_script, tmp_path):
    whole = run_script(SCRIPT, *SMALL, "--epoch", 40)
    run = folder(SCRIPT, "tiny_small_seed7_epoch40")
    expected = {name: checkpoint(run / name) for name in ("ckpt.pth", "best.pth")}
    run.rename(tmp_path / "whole")
    process = start("--epoch", 40)
    wait_for_epoch(run, process)
    process.kill()
    process.communicate()
    assert len((run / "log.jsonl").read_text().splitlines()) < 40, "the run was over before it was killed"
    again = run_script(SCRIPT, *SMALL, "--epoch", 40)
    assert all(same(checkpoint(run / name), content) for name, content in expected.items())
    assert without_times(again) == without_times(whole)


def test_a_second_process_is_refused(run_script):
    run = folder(SCRIPT, "tiny_small_seed7_epoch2")
    run.mkdir(parents=True)
    with filelock.FileLock(run / ".lock"):
        with pytest.raises(UserError, match="Another process is working in it"):
            run_script(SCRIPT, *SMALL, "--epoch", 2)
    assert run_script(SCRIPT, *SMALL, "--epoch", 2)["status"] == "finished"


def test_a_mistake_prints_three_lines_and_exits_with_2():
    process = start("--batch-size", 0)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert len(err.strip().splitlines()) == 3
    assert out == ""


def test_a_full_disk_keeps_the_last_checkpoint(run_script, monkeypatch):
    run_script(SCRIPT, *SMALL, "--epoch", 1)
    run = folder(SCRIPT, "tiny_small_seed7_epoch1")
    before = checkpoint(run / "ckpt.pth")

    def half_written(content, file):
        Path(file).write_bytes(b"PK half of a checkpoint")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(RunError, match="No space left") as caught:
        save_checkpoint(run / "ckpt.pth", {"epoch": 2})
    assert caught.value.exit_code == 1
    assert same(checkpoint(run / "ckpt.pth"), before)
    assert not list(run.glob(".*tmp*"))
    with pytest.raises(RunError, match="No space left"):
        run_script(SCRIPT, *SMALL, "--epoch", 3)
    monkeypatch.undo()


def test_a_folder_that_cannot_be_written(run_script, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cfg, "results_path", tmp_path / "file")
    with pytest.raises(UserError, match="VP_RESULTS_PATH"):
        run_script(SCRIPT, *SMALL, "--epoch", 1)


@pytest.mark.parametrize("damage", ["cut", "foreign", "other"])
def test_a_damaged_checkpoint_in_the_runs_folder_is_named(damage, run_script):
    run_script(SCRIPT, *SMALL, "--epoch", 2)
    run = folder(SCRIPT, "tiny_small_seed7_epoch2")
    (run / "result.json").unlink()
    file = run / "ckpt.pth"
    (run / "ckpt.previous.pth").unlink()
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:5000])
    elif damage == "foreign":
        torch.save(checkpoint(file) | {"mapping_sequence": torch.arange(3)}, file)
    else:
        torch.save(checkpoint(file) | {"setup": checkpoint(file)["setup"] | {"dataset": "digits"}}, file)
    content = file.read_bytes()
    with pytest.raises(UserError, match="--epoch 2 --fresh") as caught:
        run_script(SCRIPT, *SMALL, "--epoch", 2)
    assert str(file) in str(caught.value)
    assert file.read_bytes() == content
    assert run_script(SCRIPT, *SMALL, "--epoch", 2, "--fresh")["status"] == "finished"


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(damage, run_script, capsys):
    expected = run_script(SCRIPT, *SMALL, "--epoch", 4)
    run = folder(SCRIPT, "tiny_small_seed7_epoch4")
    last = checkpoint(run / "ckpt.pth")
    assert checkpoint(run / "ckpt.previous.pth")["epoch"] == 2
    (run / "result.json").unlink()
    file = run / "ckpt.pth"
    content = bytearray(file.read_bytes())
    content[content.index(last["visual_prompt_dict"]["program"].numpy().tobytes()) + 1000] ^= 4
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:5000] if damage == "cut" else content)
    capsys.readouterr()
    again = run_script(SCRIPT, *SMALL, "--epoch", 4)
    out = capsys.readouterr().out
    assert f"Continuing after epoch 3 of 4, from {run / 'ckpt.previous.pth'}" in out
    assert (f"{file} is damaged: " in out) == (damage != "gone")
    assert without_times(again) == without_times(expected)
    assert same(checkpoint(file), last)


def test_one_flipped_bit_is_noticed_or_does_not_matter(tmp_path):
    """torch.load alone takes most of such files for whole."""
    torch.manual_seed(0)
    content = {"visual_prompt_dict": {"program": torch.randn(3, 20, 20)}, "epoch": 3, "setup": {"network": "tiny"}}
    file = tmp_path / "ckpt.pth"
    save_checkpoint(file, content)
    whole, draw, noticed = file.read_bytes(), random.Random(0), 0
    for _ in range(500):
        bit = draw.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            assert same(load_checkpoint(file, ""), content), f"bit {bit}"
        except UserError:
            noticed += 1
    assert noticed > 300  # the rest is padding, and dates


def test_two_damaged_checkpoints(run_script):
    run_script(SCRIPT, *SMALL, "--epoch", 2)
    run = folder(SCRIPT, "tiny_small_seed7_epoch2")
    (run / "result.json").unlink()
    for name in ("ckpt.pth", "ckpt.previous.pth"):
        (run / name).write_bytes((run / name).read_bytes()[:-500])
    with pytest.raises(UserError, match=r"ckpt\.previous\.pth(.|\n)*--epoch 2 --fresh"):
        run_script(SCRIPT, *SMALL, "--epoch", 2)


def test_folders_of_older_layouts_are_named(run_script, capsys):
    """A checkpoint like the original repository's, without a `setup`; a receipt that does not say its setting."""
    run_script(SCRIPT, *SMALL, "--epoch", 1)
    run_script(SCRIPT, *SMALL, "--epoch", 2)
    run = folder(SCRIPT, "tiny_small_seed7_epoch2")
    arguments = json.loads((run / "args.json").read_text())
    (run / "args.json").write_text(json.dumps({k: v for k, v in arguments.items() if k != "setting"}))
    capsys.readouterr()
    run_script("tools/results_table")
    assert f"Left out, {run}: not the receipt of a run" in capsys.readouterr().out
    for name in ("args.json", "result.json", "ckpt.previous.pth"):
        (run / name).unlink()
    old = checkpoint(run / "ckpt.pth")
    del old["setup"]
    torch.save(old, run / "ckpt.pth")
    with pytest.raises(UserError, match=r"should fit this run(.|\n)*setup(.|\n)*--fresh"):
        run_script(SCRIPT, *SMALL, "--epoch", 2)


def test_a_folder_of_other_arguments_is_not_taken_over(run_script):
    run_script(SCRIPT, *SMALL, "--epoch", 2)
    run = folder(SCRIPT, "tiny_small_seed7_epoch2")
    arguments = json.loads((run / "args.json").read_text())
    (run / "args.json").write_text(json.dumps(arguments | {"lr": 0.5}))
    with pytest.raises(UserError, match=r"has lr 0.5, not 0.01"):
        run_script(SCRIPT, *SMALL, "--epoch", 2)


def test_a_flag_that_is_younger_than_the_run_does_not_make_it_another_one(run_script):
    result = run_script(SCRIPT, *SMALL, "--epoch", 1)
    file = folder(SCRIPT, "tiny_small_seed7_epoch1") / "args.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "mapping_source"}))
    assert run_script(SCRIPT, *SMALL, "--epoch", 1) == result
    with pytest.raises(UserError, match="has mapping_interval 1, not 3") as caught:
        file.write_text(file.read_text().replace("tiny_small_seed7_epoch1", ""))
        other = folder(SCRIPT, "tiny_small_seed7_epoch1_mapping-interval3")
        file.parent.rename(other)
        run_script(SCRIPT, *SMALL, "--epoch", 1, "--mapping-interval", 3)
    assert "mapping_source" not in str(caught.value)


def test_the_folders_name_tells_what_differs(run_script):
    words = ("--epoch", 1, "--seed", 9, "--lr", 0.5, "--shots", 2, "--mapping-interval", 2, "--val-shots", 1)
    run_script(SCRIPT, *SMALL, *words)
    name = "tiny_small_seed9_epoch1_lr0.5_shots2_val-shots1_mapping-interval2"
    assert folder(SCRIPT, name).is_dir()


def test_a_log_that_lost_epochs_is_named(run_script):
    run_script(SCRIPT, *SMALL, "--epoch", 2)
    run = folder(SCRIPT, "tiny_small_seed7_epoch2")
    (run / "result.json").unlink()
    (run / "log.jsonl").write_text((run / "log.jsonl").read_text()[:-20])
    with pytest.raises(UserError, match=r"should hold the 2 epochs(.|\n)*It holds 1\."):
        run_script(SCRIPT, *SMALL, "--epoch", 2)


def test_fresh_deletes_nothing_before_data_and_network_are_known_to_be_good(run_script, small):
    result = run_script(SCRIPT, *SMALL, "--epoch", 1)
    (small / "test").rename(small / "hidden")
    with pytest.raises(UserError, match="should hold"):
        run_script(SCRIPT, *SMALL, "--epoch", 1, "--fresh")
    (small / "hidden").rename(small / "test")
    assert run_script(SCRIPT, *SMALL, "--epoch", 1) == result


def test_a_run_does_not_change_its_precision_half_way(run_script):
    run_script(SCRIPT, *SMALL, "--epoch", 2)
    run = folder(SCRIPT, "tiny_small_seed7_epoch2")
    (run / "result.json").unlink()
    arguments = json.loads((run / "args.json").read_text())
    assert (arguments["precision"], arguments["device"]) == ("float32", "cpu")
    (run / "args.json").write_text(json.dumps(arguments | {"precision": "float16"}))
    with pytest.raises(UserError, match="has precision float16, not float32"):
        run_script(SCRIPT, *SMALL, "--epoch", 2)


@pytest.mark.parametrize("begun", ["float32", "bfloat16"])
def test_under_auto_a_run_goes_on_in_the_precision_it_began_in(begun, run_script, capsys, monkeypatch):
    """On another machine, or after an update, `auto` may mean another precision."""
    monkeypatch.setitem(experiment_parser.__kwdefaults__, "auto_bfloat16", True)
    units = begun == "bfloat16"
    monkeypatch.setattr("tools.common.precision.multiplies_bfloat16", lambda: units)
    assert run_script(SCRIPT, *SMALL, "--epoch", 2)["precision"] == begun
    path = folder(SCRIPT, "tiny_small_seed7_epoch2")
    whole = (path / "log.jsonl").read_text()
    assert capsys.readouterr().out.count("s  bfloat16") == 2 * units
    (path / "result.json").unlink()
    units = not units
    assert run_script(SCRIPT, *SMALL, "--epoch", 2)["precision"] == begun
    assert (path / "log.jsonl").read_text() == whole
    assert run_script(SCRIPT, *SMALL, "--epoch", 2, "--fresh")["precision"] != begun


def test_interrupted_while_the_first_checkpoint_is_written(run_script, monkeypatch):
    def interrupt(path, content, **how):
        raise KeyboardInterrupt

    monkeypatch.setattr("tools.common.run_folder.save_checkpoint", interrupt)
    with pytest.raises(UserError, match="No epoch was finished"):
        run_script(SCRIPT, *SMALL, "--epoch", 2)
    assert not folder(SCRIPT, "tiny_small_seed7_epoch2").exists()


def test_a_full_disk_under_tensorboard_is_no_traceback(run_script, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.close", full)
    with pytest.raises(RunError, match=r"tensorboard has to be written(.|\n)*No space left"):
        run_script(SCRIPT, *SMALL, "--epoch", 2)


@pytest.mark.parametrize(
    "change", [{"epoch": "x"}, {"setup": [1]}, {"scheduler_dict": 5}, {"optimizer_dict": {}}, {"visual_prompt_dict": 3}]
)
def test_a_checkpoint_of_wrong_values_is_named(change, run_script):
    run_script(SCRIPT, *SMALL, "--epoch", 2)
    run = folder(SCRIPT, "tiny_small_seed7_epoch2")
    (run / "result.json").unlink()
    torch.save(checkpoint(run / "ckpt.pth") | change, run / "ckpt.pth")
    with pytest.raises(UserError, match="--fresh"):
        run_script(SCRIPT, *SMALL, "--epoch", 2)


@pytest.mark.parametrize(("file", "content"), [("args.json", "[1]"), ("result.json", "{"), ("args.json", "3")])
def test_damaged_json_is_named(file, content, run_script):
    run_script(SCRIPT, *SMALL, "--epoch", 2)
    run = folder(SCRIPT, "tiny_small_seed7_epoch2")
    (run / "result.json").unlink()
    (run / file).write_text(content)
    with pytest.raises(UserError, match=rf"{file} is read"):
        run_script(SCRIPT, *SMALL, "--epoch", 2)
