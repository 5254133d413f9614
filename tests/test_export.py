"""export.py: the file alone gives the checkpoint's logits, for any number of images."""

import io
import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from PIL import Image
from test_experiments import only_run
from tiny import ROOT
from torchvision.transforms import v2

import tools.export as export
from errors import RunError, UserError
from models.affine_prompt import AffineColourVisualPrompt
from models.scaled_prompt import ScaledVisualPrompt
from models.visual_prompt import RandomPatchVisualPrompt
from tools.load import ImageTransform, Loaded, load_prompted

needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="pip install onnx onnxscript onnxruntime",
)
FORMATS = ["torch.export", pytest.param("onnx", marks=[needs_onnx, pytest.mark.slow])]
old = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6)
several = pytest.mark.skipif(old, reason="PyTorch 2.4 cannot export torch.func.functional_call; export.py says so")
SEVERAL = ["clip/dvp", "cnn/dam_vp", "cnn/c_avp"]
SCRIPTS = ["cnn/ilm_vp", "cnn/evp", "cnn/acavp", "cnn/linear_probing", "cnn/full_finetune"]
SCRIPTS += ["clip/evp", "clip/attr_vr", "clip/linear_probing", "clip/rvp"]
SCRIPTS += [pytest.param(script, marks=several) for script in SEVERAL]


def opened(file, kind):
    """The file's function and the names of its classes, read as somebody without this repository would."""
    if kind == "onnx":
        from onnxruntime import InferenceSession

        session = InferenceSession(str(file), providers=["CPUExecutionProvider"])
        names = session.get_modelmeta().custom_metadata_map["class_names"]
        return lambda x: torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0]), json.loads(names)
    extra = {"class_names": ""}
    program = torch.export.load(io.BytesIO(file.read_bytes()), extra_files=extra)
    return program.module(), json.loads(extra["class_names"])


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_file_gives_the_checkpoints_logits(script, kind, run_script, words, capsys):
    run_script(f"experiments/{script}", *words(f"experiments/{script}"), "--epoch", 1)
    saved = only_run(f"experiments/{script}") / "best.pth"
    file = run_script("tools/export", "--checkpoint", saved, "--format", kind)
    assert file == saved.with_suffix(export.FORMATS[kind].ending)
    assert "Largest difference to the checkpoint's logits: " in capsys.readouterr().out
    function, names = opened(file, kind)
    model, transform, class_names = load_prompted(saved, device="cpu")
    assert names == list(class_names)
    for count in (1, 7):
        images = torch.rand(count, *transform(Image.new("RGB", (64, 48))).shape)
        with torch.no_grad():
            expected = model(images)
        assert torch.allclose(function(images), expected, rtol=0, atol=1e-4 * expected.abs().max())


@pytest.mark.parametrize("prompt", [AffineColourVisualPrompt(16), ScaledVisualPrompt(16, 16, 0.7)])
def test_a_prompt_that_resamples_fixes_no_batch_size(prompt):
    """`len(x)` in its forward pass made the batch of the example the only one."""
    with torch.no_grad():
        program = export.open_program(export.make_program(prompt, torch.rand(2, 3, 16, 16), ["a"]))
        for images in (torch.rand(1, 3, 16, 16), torch.rand(5, 3, 16, 16)):
            assert torch.allclose(program(images), prompt(images), atol=1e-6)


IN_ANOTHER_FOLDER = """
import sys
sys.path.insert(0, {root!r})
sys.path.append({tests!r})
import tiny
tiny.prepare_process()

from tools.load import load_prompted

for checkpoint in {files!r}:
    model, transform, class_names = load_prompted(checkpoint, device="cpu")
    best = model(transform({image!r})[None]).softmax(1)[0].max(0)
    print(class_names[best.indices], f"{{best.values:.4f}}")
"""


@pytest.mark.slow
def test_load_prompted_in_a_program_of_another_folder(run_script, words, small, tmp_path):
    """A folder with modules of the same names as this repository's."""
    files, expected = [], []
    image = str(next((small / "test").rglob("*.png")))
    for script in [*SCRIPTS[: -len(SEVERAL)], *SEVERAL]:
        run_script(f"experiments/{script}", *words(f"experiments/{script}"), "--epoch", 1)
        files.append(str(only_run(f"experiments/{script}") / "best.pth"))
        (found,) = run_script("tools/predict", "--checkpoint", files[-1], image).values()
        expected.append(f"{found[0][0]} {found[0][1]:.4f}")
    elsewhere = tmp_path / "elsewhere"
    for name in ("models", "tools", "data"):
        (elsewhere / name).mkdir(parents=True)
        (elsewhere / name / "__init__.py").write_text("raise SystemExit(1)")
    names = {"root": str(ROOT), "tests": str(ROOT / "tests"), "files": files, "image": image}
    command = [sys.executable, "-c", IN_ANOTHER_FOLDER.format(**names)]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == expected, done.stderr


@pytest.fixture
def trained(run_script, words, small):
    run_script("experiments/cnn/ilm_vp", *words("experiments/cnn/ilm_vp"), "--epoch", 1)
    return only_run("experiments/cnn/ilm_vp") / "best.pth"


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (lambda model, *_: export.make_program(torch.nn.Sequential(model, torch.nn.Softmax(1)), *_), "differ by up to"),
        (lambda *_: 1 / 0, "PyTorch cannot export this model: division by zero"),
    ],
)
def test_a_wrong_file_is_not_written(trained, monkeypatch, made, found):
    monkeypatch.setitem(export.FORMATS, "torch.export", export.FORMATS["torch.export"]._replace(make=made))
    with pytest.raises(RunError, match=found):
        export.main(["--checkpoint", str(trained), "--format", "torch.export"])
    assert not list(trained.parent.glob("*.pt2")) and not list(trained.parent.glob(".*tmp*"))


def test_missing_packages_are_named_before_anything_is_loaded(monkeypatch, run_script):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"Missing: (.*, )?onnxscript.*\nType pip install .*onnxscript"):
        run_script("tools/export", "--checkpoint", "none.pth", "--format", "onnx")


def test_a_prompt_at_random_positions_is_refused(monkeypatch, tmp_path):
    prompt = RandomPatchVisualPrompt(6, 16, torch.ones(3))
    prompt.program.data.fill_(0.5)
    loaded = Loaded(prompt, ImageTransform([v2.Resize((16, 16))]), ("a",))
    monkeypatch.setattr(export, "load", lambda *_, **__: loaded)
    with pytest.raises(RunError, match=r"cannot export this model|differ by up to"):
        export.main(["--checkpoint", str(tmp_path / "best.pth"), "--format", "torch.export"])
    assert not list(tmp_path.iterdir())


def test_nan_is_no_small_difference():
    class Nan(torch.nn.Module):
        def forward(self, images):
            return images.flatten(1) * float("nan")

    difference, largest = export.compare(torch.nn.Flatten(), Nan(), (3, 2, 2))
    assert not difference <= export.LARGEST * largest
