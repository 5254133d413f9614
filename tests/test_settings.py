"""What the papers set: optimizer, schedule, prompt, transforms and text prompts of each script, as `fit` gets them."""

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from conftest import SENTENCES, load_script
from test_experiments import METHODS
from tiny import ROOT
from torchvision.transforms import v2

import cfg
from data import catalog
from data.batches import Loader
from data.transforms import describe_transforms
from errors import UserError
from models.clip import TEMPLATES
from tools.common.naming import CLIP, own_flags, run_name
from tools.common.run import Run
from tools.common.settings import OURS, SETTINGS, origins

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("small")]

EPOCHS = 4  # of 3 steps each: 24 images in batches of 8
COSINE_EPOCH = [0.5 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]
COSINE_STEP = [0.5 * (1 + math.cos(math.pi * step / 12)) for step in range(12)]
WARM = [(step + 1) / 5 for step in range(5)] + [0.5 * (1 + math.cos(math.pi * step / 7)) for step in range(7)]


def listed(size, crop=None, *, random=False, shorter=False, bicubic=False) -> list[v2.Transform]:
    """Resize, with `shorter` of the shorter side; a crop, in the centre or random; with `random` a flip."""
    mode = v2.InterpolationMode.BICUBIC if bicubic else v2.InterpolationMode.BILINEAR
    resize = v2.Resize(size if shorter else (size, size), mode)
    if random:
        return [resize, v2.RandomCrop(crop or size), v2.RandomHorizontalFlip()]
    return [resize, v2.CenterCrop(crop or size)] if crop or shorter else [resize]


CLIPS_OWN = listed(32, shorter=True, bicubic=True)


@dataclass(frozen=True)
class Expected:
    """`lr` at the start, and its fraction at each step of the schedule; `train` and `evaluation` are the transforms."""

    optimizer: str
    lr: float
    fractions: list[float]
    each_step: bool = False
    extra: dict = field(default_factory=dict)
    train: list = field(default_factory=lambda: CLIPS_OWN)
    evaluation: list = field(default_factory=lambda: CLIPS_OWN)
    prompt: str = ""
    mask: int | None = None  # pixels of one channel that may change
    learns: tuple[tuple[str, ...], ...] = (("prompt.program",),)  # by parameter group
    texts: int = 0


STEPS = [1.0, 1.0, 0.01, 0.01]  # half of 4 epochs and 72 % of them are 2 whole epochs both
ILM = Expected("Adam", 0.01, STEPS, train=listed(32), evaluation=listed(32), prompt="ExpansiveVisualPrompt")
FRAME = 32**2 - 24**2  # 30 of 224 are 4 of 32
EVP = Expected(
    "NormalizedGradient",
    70.0,
    COSINE_EPOCH,
    train=listed(24, shorter=True, bicubic=True, random=True),
    evaluation=listed(24, shorter=True, bicubic=True),
    prompt="PaddedVisualPrompt",
    mask=FRAME,
    texts=4,
)
TP_VP = {"each_step": True, "extra": {"momentum": 0.9}, "mask": FRAME, "prompt": "AdditiveVisualPrompt"}
CNN_EVP = {
    "train": listed(46, shorter=True, bicubic=True, random=True),
    "evaluation": listed(46, shorter=True, bicubic=True),
    "mask": 64**2 - 46**2,
    "texts": 0,
}
FINE = {"train": listed(73, 64, random=True), "evaluation": listed(73, 64)}
CLIP_FINE = {"train": listed(37, 32, random=True, shorter=True, bicubic=True), "each_step": True}
PROGRAM, LAYER = ("prompt.program",), ("mapping.layer.weight", "mapping.layer.bias")
AUTO = Expected(**vars(ILM) | {"lr": 0.001, "mask": 64**2 - 32**2})
DIVERSE = {"train": listed(96, 64, random=True), "evaluation": listed(64)}
CONVOLUTIONS = [f"{number}.{name}" for number in (0, 1, 4, 5, 8, 9, 12, 13, 15) for name in ("weight", "bias")]
MASKS = {
    "prompt": "SampleSpecificVisualPrompt",
    "learns": (PROGRAM, tuple(f"prompt.mask_network.{name}" for name in CONVOLUTIONS)),
    **DIVERSE,
}
WATERMARK = {"prompt": "AdditiveVisualPrompt", "mask": 64**2 - 48**2, **DIVERSE}
LOW_RANK = Expected(
    "SGD",
    0.02,
    COSINE_STEP,
    each_step=True,
    extra={"momentum": 0.9, "weight_decay": 1e-4},
    train=listed(64),
    evaluation=listed(64),
    prompt="LowRankVisualPrompt",
    learns=(("prompt.left", "prompt.right", *LAYER),),
)
SCALED = {  # 128 of 224 pixels are 37 of 64, and 0.8 times that 29
    "prompt": "ScaledVisualPrompt",
    "train": listed(37),
    "evaluation": listed(37),
    "mask": 64**2 - 29**2,
    "learns": (("prompt.program", "prompt.scale", *LAYER),),
}
ACAVP = {
    "prompt": "AffineColourVisualPrompt",
    "learns": (PROGRAM, tuple(f"prompt.{name}" for name in ("translation", "angle", "scale", "shear", "colour"))),
    "train": [CLIPS_OWN[0], v2.RandomHorizontalFlip(), v2.RandomCrop(32)],
    "mask": 32**2 - 24**2,  # 31 * 0.73 = 22.6 is the last row that is not black
    "texts": 4,
}
CNN_ACAVP = {
    "train": [listed(73, shorter=True)[0], v2.RandomHorizontalFlip(), v2.RandomCrop(64)],
    "evaluation": [listed(73, shorter=True)[0], v2.CenterCrop(64)],
    "mask": 64**2 - 47**2,
    "texts": 0,
}
BAR_RATES = [(9.9 * max(0, 1 - step / 10.8) ** 0.9 + 0.1) / 10 for step in range(1, 13)]
BAR = Expected(
    "RandomGradientFree", 10.0, BAR_RATES, each_step=True, prompt="ExpansiveVisualPrompt", mask=64**2 - 55**2
)
CLIP_BAR = {  # 194 of 224 pixels are 28 of 32
    "mask": 32**2 - 28**2,
    "train": [v2.RandomResizedCrop(28, interpolation=v2.InterpolationMode.BICUBIC), v2.RandomHorizontalFlip()],
    "evaluation": listed(28, shorter=True, bicubic=True),
    "texts": 4,
}
SPSA = {"momentum": 0.9, "c": 0.01, "gamma": 0.1}
BLACKVIP = Expected(
    "SPSA_GC",
    0.01,
    [(step + 1) ** -0.4 for step in range(1, 13)],
    each_step=True,
    extra=SPSA,
    train=[v2.RandomResizedCrop(32, interpolation=v2.InterpolationMode.BICUBIC), v2.RandomHorizontalFlip()],
    texts=4,
)
ATTR_VR = {  # 192 of 224 pixels are 27 of 32
    "each_step": True,
    "extra": {"momentum": 0.9},
    "train": [listed(27, shorter=True, bicubic=True)[0], v2.RandomResizedCrop(27), v2.RandomHorizontalFlip()],
    "evaluation": listed(27, shorter=True, bicubic=True),
}
WARM_FIFTH = [0.5, 1.0] + [0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]  # 2 of 12 steps
CLUSTERS = {  # 256 of 224 pixels are 73 of 64
    "prompt": "PromptsOfClusters",
    "learns": (PROGRAM, LAYER),
    "train": [listed(73, shorter=True)[0], v2.RandomCrop(64), v2.RandomHorizontalFlip()],
    "evaluation": listed(73, 64, shorter=True),
}
CLASSES = {"prompt": "PromptsOfClasses", "train": listed(64), "evaluation": listed(64)}
TABLE = {
    "experiments/cnn/rlm_vp": ((), Expected(**vars(ILM) | {"mask": 64**2 - 32**2})),
    "experiments/cnn/flm_vp": ((), Expected(**vars(ILM) | {"mask": 64**2 - 32**2})),
    "experiments/cnn/ilm_vp": ((), Expected(**vars(ILM) | {"mask": 64**2 - 32**2})),
    "experiments/cnn/blm_vp": ((), Expected(**vars(ILM) | {"mask": 64**2 - 32**2})),
    "experiments/cnn/blmp_vp": ((), Expected(**vars(ILM) | {"mask": 64**2 - 32**2})),
    "experiments/cnn/fully_vp": (("--mapping-lr", "0.5"), Expected(**vars(AUTO) | {"learns": (PROGRAM, LAYER)})),
    "experiments/cnn/ares": ((), Expected(**vars(ILM) | {"mask": 64**2 - 32**2})),
    "experiments/clip/ares": ((), Expected(**vars(ILM) | {"mask": 64**2 - 32**2})),
    "experiments/cnn/semantic_vp": ((), Expected(**vars(ILM) | {"mask": 64**2 - 32**2})),
    "experiments/cnn/evp": ((), Expected(**vars(EVP) | CNN_EVP)),
    "experiments/cnn/smm": ((), Expected(**vars(ILM) | MASKS)),
    "experiments/cnn/watermark_vp": (("--width", "28"), Expected(**vars(ILM) | WATERMARK)),
    "experiments/cnn/lor_vp": ((), LOW_RANK),
    "experiments/cnn/auto_vp": (
        ("--scale", "0.8", "--trainable-scale"),
        Expected(**vars(AUTO) | SCALED),
    ),
    "experiments/cnn/acavp": (
        ("--transform-lr", "0.5"),
        Expected("SGD", 40.0, COSINE_STEP, each_step=True, extra={"momentum": 0.9}, **ACAVP | CNN_ACAVP),
    ),
    "experiments/cnn/bar": ((), Expected(**vars(BAR) | {"train": listed(55), "evaluation": listed(55)})),
    "experiments/cnn/dam_vp": (
        ("--head-lr", "0.5", "--head", "--clusters", "3"),
        Expected("SGD", 40.0, WARM_FIFTH, each_step=True, extra={"momentum": 0.9, "weight_decay": 0.0}, **CLUSTERS),
    ),
    "experiments/cnn/c_avp": (
        (),
        Expected("SGD", 0.1, COSINE_STEP, each_step=True, extra={"momentum": 0.9, "weight_decay": 0.0}, **CLASSES),
    ),
    "experiments/cnn/linear_probing": (
        (),
        Expected("Adam", 0.1, STEPS, train=listed(64), evaluation=listed(64)),
    ),
    "experiments/cnn/full_finetune": (
        (),
        Expected("Adam", 1e-4, COSINE_EPOCH, extra={"weight_decay": 5e-4}, **FINE),
    ),
    "experiments/clip/ilm_tp_vp": ((), Expected("SGD", 40.0, COSINE_STEP, texts=81 * 4, **TP_VP)),
    "experiments/clip/single_tp_vp": ((), Expected("SGD", 40.0, COSINE_STEP, texts=4, **TP_VP)),
    "experiments/clip/blm_vp": ((), Expected("SGD", 40.0, COSINE_STEP, texts=81 * 4, **TP_VP)),
    "experiments/clip/blmp_vp": ((), Expected("SGD", 40.0, COSINE_STEP, texts=81 * 4, **TP_VP)),
    "experiments/clip/fully_vp": (
        ("--mapping-lr", "0.5"),
        Expected("SGD", 40.0, COSINE_STEP, texts=81 * 4, **TP_VP, learns=(PROGRAM, LAYER)),
    ),
    "experiments/clip/vp": (("--warmup", "5"), Expected("SGD", 40.0, WARM, texts=4, **TP_VP)),
    "experiments/clip/evp": ((), EVP),
    "experiments/clip/attr_vr": (
        (),
        Expected("SGD", 40.0, COSINE_STEP, **ATTR_VR, prompt="ExpansiveVisualPrompt", mask=32**2 - 27**2, texts=160),
    ),
    "experiments/clip/dvp": (
        ("--clusters", "2"),
        Expected("SGD", 40.0, COSINE_STEP, **ATTR_VR, prompt="PromptsOfLabels", mask=32**2 - 27**2, texts=80),
    ),
    "experiments/clip/rvp": (
        ("--mapping-lr", "0.5"),
        Expected(
            "SGD",
            40.0,
            COSINE_STEP,
            **ATTR_VR,
            prompt="ExpansiveVisualPrompt",
            mask=32**2 - 27**2,
            learns=(PROGRAM, ("mapping.sentences", "mapping.classes")),
            texts=80,
        ),
    ),
    "experiments/clip/acavp": (
        ("--transform-lr", "0.5"),
        Expected("NormalizedGradient", 40.0, COSINE_STEP, each_step=True, extra={"momentum": 0.9}, **ACAVP),
    ),
    "experiments/clip/bar": ((), Expected(**vars(BAR) | CLIP_BAR)),
    "experiments/clip/blackvip": ((), BLACKVIP),
    "experiments/clip/linear_probing": ((), Expected("Adam", 0.1, STEPS)),
    "experiments/clip/full_finetune": (
        (),
        Expected("AdamW", 1e-5, COSINE_STEP, extra={"weight_decay": 0.1}, **CLIP_FINE),
    ),
}


class Stop(Exception):
    pass


def arguments_of_fit(script, flags, words, monkeypatch) -> dict:
    """What a script hands to `run.fit`, and the transforms that it gives to `load_data`."""
    module, seen = load_script(script), {}

    def fit(run, model, data, optimizer, scheduler, **rest):
        seen.update(model=model, data=data, optimizer=optimizer, scheduler=scheduler, **rest)
        raise Stop

    load = module.load_data

    def load_data(dataset, run, **how):
        seen.update(how)
        return load(dataset, run, **how)

    monkeypatch.setattr(Run, "fit", fit)
    monkeypatch.setattr(module, "load_data", load_data)
    network = [word for word in words(script) if word not in ("--seed", "7", "--lr", "2", "--warmup")]
    with pytest.raises(Stop):
        module.main([*network, "--epoch", str(EPOCHS), "--batch-size", "8", *flags])
    return seen


def same_transforms(first: list, second: list) -> bool:
    """Equal classes and arguments, the random ones' too."""
    return describe_transforms(first) == describe_transforms(second)


def test_every_script_is_in_the_table():
    assert TABLE.keys() == METHODS.keys()


@pytest.mark.parametrize("script", TABLE)
def test_what_the_papers_set(script, words, monkeypatch):
    flags, expected = TABLE[script]
    seen = arguments_of_fit(script, flags, words, monkeypatch)
    optimizer, scheduler, model = seen["optimizer"], seen["scheduler"], seen["model"]
    assert type(optimizer).__name__ == expected.optimizer
    by_values = getattr(optimizer, "gradient_free", False)
    # else the gradient scaler would wait for the device at every step
    assert by_values or optimizer._step_supports_amp_scaling
    assert expected.extra.items() <= optimizer.param_groups[0].items()
    assert seen.get("schedule_steps", False) == expected.each_step
    rates = []
    for _ in range(12 if expected.each_step else EPOCHS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step(lambda: torch.tensor(0.0)) if by_values else optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([expected.lr * fraction for fraction in expected.fractions], rel=1e-12, abs=1e-15)
    assert same_transforms(seen["train"], expected.train)
    assert same_transforms(seen["eval"], expected.evaluation)
    assert isinstance(seen["data"].train, Loader)
    assert seen["data"].train.shuffle
    if expected.prompt:
        prompt = model.prompt
        assert type(prompt).__name__ == expected.prompt
        if expected.mask is not None:
            mask = getattr(prompt, "prompt", prompt).mask  # of several prompts, or of the one
            plane = mask if mask.ndim == 2 else mask[0]
            assert plane.sum() == expected.mask
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
        assert sorted(map(sorted, groups)) == sorted(map(sorted, expected.learns))
        if script.endswith(("/vp", "/bar")):
            program = prompt.program.detach()
            # 3 x 32 x 32 normal values: 0.1 is 5 standard deviations of their mean, 7 of their deviation
            assert abs(program.mean()) < 0.1
            assert program.std().item() == pytest.approx(1, abs=0.1)
            assert program.abs().max() > 2.5  # a uniform distribution of this deviation ends before
        elif script.endswith("/dam_vp"):
            assert abs(prompt.program.mean()) < 0.05  # 36,864 normal values
            assert prompt.program.std().item() == pytest.approx(1, abs=0.05)
            assert not torch.equal(prompt.program[0], prompt.program[1])
        elif script != "experiments/cnn/lor_vp":
            assert torch.all(prompt.program == 0)
        if flags[:1] in (("--mapping-lr",), ("--transform-lr",), ("--head-lr",)):
            assert [group["initial_lr"] for group in optimizer.param_groups] == [expected.lr, 0.5]
        if hasattr(prompt, "unit"):
            assert torch.equal(prompt.unit, model.network.std)  # it lives in the normalised space
    if expected.texts:
        assert len(model.network.class_names) == expected.texts


STEPPED = [script for script, (_, expected) in TABLE.items() if expected.fractions == STEPS]


@pytest.mark.parametrize("script", STEPPED)
def test_a_warm_up_before_the_steps(script, words, monkeypatch):
    """Epochs 1 to 3 have 1/3, 2/3 and all of the learning rate; after the second of 4 it falls twice."""
    seen = arguments_of_fit(script, (*TABLE[script][0], "--warmup", "3"), words, monkeypatch)
    rates = []
    for _ in range(EPOCHS):
        rates.append(seen["optimizer"].param_groups[0]["lr"])
        seen["optimizer"].step()
        seen["scheduler"].step()
    lr = TABLE[script][1].lr
    assert rates == pytest.approx([lr / 3, lr * 2 / 3, lr * 0.01, lr * 0.01])


@pytest.mark.parametrize("script", STEPPED)
def test_a_warm_up_longer_than_the_training_is_refused(script, words, run_script):
    found = r"--warmup 3: .* epochs\.\n.* has 2 epochs.*\n.* larger --epoch"
    assert_refused(found, run_script, script, *words(script), *TABLE[script][0], "--epoch", "2", "--warmup", "3")


def test_vps_warm_up_counts_steps(words, run_script, monkeypatch, capsys):
    """4 epochs of 3 steps are 12. The default, 1000, is told and not refused."""
    script = "experiments/clip/vp"
    arguments_of_fit(script, ("--warmup", "12"), words, monkeypatch)
    assert "--warmup" not in capsys.readouterr().out
    arguments_of_fit(script, (), words, monkeypatch)
    assert "--warmup 1000: the learning rate rises for so many steps. The training has 12" in capsys.readouterr().out
    found = r"--warmup 13(.|\n)*has 12 steps(.|\n)*--warmup 1\."
    assert_refused(found, run_script, script, *words(script), "--epoch", "4", "--warmup", "13")


@pytest.mark.parametrize("script", ["experiments/cnn/bar", "experiments/clip/bar"])
def test_a_rate_of_bar_that_would_rise_is_refused(script, words, run_script):
    found = r"--lr 0\.05 --least-lr 0\.1(.|\n)*below 0\.1(.|\n)*--least-lr 0\.0005"
    assert_refused(found, run_script, script, *words(script), "--lr", "0.05")
    load_script(script).parser.parse_args([*words(script), "--lr", "0.1"])


def assert_refused(message, run_script, script, *flags):
    with pytest.raises(UserError, match=message) as caught:
        run_script(script, *flags)
    assert len(str(caught.value).splitlines()) == 3
    assert not list(cfg.results_path.rglob("args.json"))


DEFAULTS = {  # script -> epochs, seed, batch size (None: the data set's)
    **dict.fromkeys(METHODS, (200, 7, None)),
    "experiments/cnn/evp": (1000, 42, 256),
    "experiments/clip/evp": (1000, 42, 256),
    "experiments/clip/vp": (1000, 7, 256),
    "experiments/cnn/acavp": (1000, 7, 256),
    "experiments/clip/acavp": (1000, 7, 256),
    "experiments/clip/attr_vr": (200, 7, 64),
    "experiments/clip/dvp": (200, 7, 64),
    "experiments/clip/rvp": (200, 7, 64),
    "experiments/cnn/lor_vp": (20, 1234, 256),
    **dict.fromkeys(("experiments/cnn/bar", "experiments/clip/bar", "experiments/clip/blackvip"), (250, 7, 128)),
    "experiments/cnn/dam_vp": (50, 2023, 128),
    "experiments/cnn/c_avp": (50, 7, 256),
    **{
        f"experiments/{name}": (200, 7, 256)
        for name in ("cnn/blm_vp", "cnn/blmp_vp", "clip/blm_vp", "clip/blmp_vp", "cnn/smm", "cnn/watermark_vp")
    },
    **dict.fromkeys(("experiments/cnn/ares", "experiments/clip/ares"), (200, 7, 256)),
    **{f"experiments/{name}_vp": (200, 7, 128) for name in ("cnn/fully", "clip/fully", "cnn/auto")},
}


@pytest.mark.parametrize("script", METHODS)
def test_defaults(script, words, monkeypatch):
    module = load_script(script)
    found = {}

    class Caught:
        def __init__(self, args, parser):
            found.update(vars(args))
            raise Stop

    monkeypatch.setattr("tools.common.run.Run", Caught)
    network = words(script)[: (4 if "/clip/" in script else 2) + 2 * script.endswith("/ares")]
    with pytest.raises(Stop):
        module.main([*network, "--dataset", "small", *(words(script)[-2:] if script.endswith(SENTENCES) else ())])
    assert (found["epoch"], found["seed"], found["batch_size"]) == DEFAULTS[script]
    assert found["precision"] == ("float32" if script.endswith(("/bar", "/blackvip")) else "auto")
    assert found["augment"] == ("trivial" if script.endswith("/acavp") else "none")
    if script.endswith("/vp"):
        assert (found["warmup"], found["prompt_size"], found["vp_method"]) == (1000, 30, "padding")


def test_the_rate_of_smms_mask_network(words, monkeypatch):
    """The paper's for ViTs: 0.001 to the end, while that of the program falls; six layers."""
    flags = ("--mask-layers", "6", "--mask-lr", "0.001", "--mask-schedule", "constant", "--mask-channels", "1")
    seen = arguments_of_fit("experiments/cnn/smm", (*flags, "--patch-size", "16"), words, monkeypatch)
    rates = []
    for _ in range(EPOCHS):
        rates.append([group["lr"] for group in seen["optimizer"].param_groups])
        seen["optimizer"].step()
        seen["scheduler"].step()
    assert torch.tensor(rates).T.tolist() == [pytest.approx([0.01, 0.01, 1e-4, 1e-4]), pytest.approx([0.001] * 4)]
    assert seen["model"].prompt.masks(torch.rand(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def test_autovps_image_sizes(words, monkeypatch):
    """128 pixels of 224 are 37 of 64. They are resized by the scale, up to the whole input."""
    for scale, size in (("1", 37), ("0.5", 18), ("1.5", 55), ("5", 64)):
        seen = arguments_of_fit("experiments/cnn/auto_vp", ("--scale", scale), words, monkeypatch)
        assert same_transforms(seen["eval"], listed(size))
        assert type(seen["model"].prompt).__name__ == "ExpansiveVisualPrompt"


EVP_FLAGS = {
    "placement": (("--placement", "add"), {"size": 32, "mask": FRAME}),
    "no diversity": (("--no-diversity",), {"size": 24, "mask": FRAME, "random": False}),
    "prompt size": (("--prompt-size", "14"), {"size": 28, "mask": 32**2 - 28**2}),
    "image size": (("--image-size", "112"), {"size": 16, "mask": FRAME}),
    "the paper's sizes": (("--image-size", "164", "--prompt-size", "30"), {"size": 24, "mask": FRAME}),
    "an odd margin": (("--image-size", "163"), {"size": 23, "mask": FRAME}),
    "l1": (("--gradient-norm", "l1"), {"size": 24, "mask": FRAME, "norm": 6.0}),
    "linf": (("--gradient-norm", "linf"), {"size": 24, "mask": FRAME, "norm": 3.0}),
    "none": (("--gradient-norm", "none"), {"size": 24, "mask": FRAME, "norm": 1.0}),
    "l2": ((), {"size": 24, "mask": FRAME, "norm": 14**0.5}),
}


@pytest.mark.parametrize(("flags", "expected"), EVP_FLAGS.values(), ids=EVP_FLAGS.keys())
def test_evps_flags(flags, expected, words, monkeypatch):
    seen = arguments_of_fit("experiments/clip/evp", flags, words, monkeypatch)
    size = expected["size"]
    assert same_transforms(seen["eval"], listed(size, shorter=True, bicubic=True))
    random = expected.get("random", True)
    assert same_transforms(seen["train"], listed(size, shorter=True, bicubic=True, random=random))
    assert seen["model"].prompt.mask[0].sum() == expected["mask"]
    norm = seen["optimizer"].norm(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    assert float(norm) == pytest.approx(expected.get("norm", 14**0.5))


@pytest.mark.parametrize("script", ["experiments/clip/vp", "experiments/clip/evp"])
def test_the_text_prompt(script, words, monkeypatch):
    usual = {"vp": "This is a photo of a bee", "evp": "this is a photo of a bee"}[script.rpartition("/")[2]]
    flags = TABLE[script][0]
    seen = arguments_of_fit(script, flags, words, monkeypatch)
    assert seen["model"].network.class_names[1] == usual
    seen = arguments_of_fit(script, (*flags, "--template", "the {}, here"), words, monkeypatch)
    assert seen["model"].network.class_names[1] == "the bee, here"
    small = next(row for row in catalog.DATASETS if row.name == "small")
    clevr = next(row for row in catalog.DATASETS if row.name == "clevr")
    own = replace(small, text_template=clevr.text_template)
    monkeypatch.setattr(catalog, "DATASETS", (own,))
    seen = arguments_of_fit(script, flags, words, monkeypatch)
    assert seen["model"].network.class_names[1] == "This is a photo of bee objects"


def test_ilm_tp_vps_source_labels_are_template_major(words, monkeypatch):
    names = arguments_of_fit("experiments/clip/ilm_tp_vp", (), words, monkeypatch)["model"].network.class_names
    assert names[:4] == tuple(f"This is a photo of a {name}." for name in ("ant", "bee", "cow", "doe"))
    assert names[4] == TEMPLATES[1].replace("{}", "ant")


# The table of settings ----------------------------------------------------------------------------------------------

B16 = "ViT-B-16-quickgelu"
STATED = [  # method, network or CLIP, data set, flag, value
    ("cnn/blm_vp", "resnet18", "cifar10", "batch_size", 256),
    ("cnn/blm_vp", "resnet18", "dtd", "batch_size", 64),
    ("cnn/blmp_vp", "resnet18", "oxfordpets", "batch_size", 64),
    ("clip/blm_vp", None, "dtd", "batch_size", 64),
    ("clip/blmp_vp", None, "sun397", "batch_size", 256),
    ("cnn/smm", "resnet50", "oxfordpets", "batch_size", 64),
    ("cnn/smm", "resnet50", "svhn", "mask_layers", 5),
    ("cnn/smm", "resnet50", "svhn", "mask_lr", None),
    ("cnn/smm", "timm:vit_base_patch32_384", "svhn", "mask_layers", 6),
    ("cnn/smm", "timm:vit_base_patch32_384", "dtd", "mask_lr", 0.001),
    ("cnn/smm", "timm:vit_base_patch32_384", "dtd", "mask_schedule", "constant"),
    ("cnn/smm", "timm:vit_base_patch32_384", "dtd", "batch_size", 64),
    ("cnn/watermark_vp", "resnet18", "dtd", "batch_size", 64),
    ("cnn/auto_vp", "resnet18", "cifar100", "batch_size", 128),
    ("cnn/auto_vp", "resnet18", "flowers102", "batch_size", 64),
    ("cnn/auto_vp", "resnet18", "dtd", "batch_size", 32),
    ("cnn/auto_vp", "resnet18", "sun397", "batch_size", 256),
    ("cnn/auto_vp", "resnet18", "abide", "batch_size", 64),
    ("cnn/auto_vp", "resnet18", "abide", "image_size", 200),
    ("cnn/auto_vp", "resnet18", "dtd", "image_size", 128),
    ("cnn/fully_vp", "resnet18", "dtd", "batch_size", 32),
    ("clip/fully_vp", None, "sun397", "batch_size", 256),
    ("cnn/evp", "resnet50_v1", "dtd", "batch_size", 256),
    ("cnn/lor_vp", "resnet18", "cifar10", "batch_size", 256),
    ("clip/bar", B16, "dtd", "lr", 5.0),
    ("clip/bar", B16, "dtd", "least_lr", 0.1),
    ("clip/bar", B16, "eurosat", "least_lr", 0.01),
    ("clip/bar", B16, "stanfordcars", "epoch", 125),
    ("clip/bar", None, "dtd", "lr", 10.0),  # of another CLIP nothing is stated
    ("clip/bar", None, "eurosat", "least_lr", 0.1),
    ("clip/bar", None, "stanfordcars", "epoch", 250),
    ("clip/blackvip", B16, "eurosat", "strength", 0.4),
    ("clip/blackvip", "ViT-B-16", "resisc45", "momentum", 0.95),
    ("clip/blackvip", "ViT-B-16-SigLIP", "eurosat", "strength", 0.3),
    ("clip/blackvip", None, "resisc45", "momentum", 0.9),
    ("clip/blackvip", "RN50", "sun397", "epoch", 250),
    ("clip/vp", None, "dtd", "lr", 40.0),
    ("cnn/ilm_vp", "resnet18", "dtd", "batch_size", None),  # data/catalog.py has ILM-VP's
    ("cnn/smm", "efficientnet_lite0", "pictures", "batch_size", 16),
    ("cnn/evp", "efficientnet_lite0", "digits_inverted", "batch_size", 64),
    ("clip/dvp", None, "dtd", "clusters", 3),
    ("clip/dvp", None, "eurosat", "clusters", 1),
    ("clip/dvp", None, "food101", "clusters", 2),
    ("clip/dvp", None, "ucf101", "clusters", 2),
]


def parsed(method, network, dataset, *words):
    """The flags as the script's parser takes them, and the parser."""
    parser = load_script(f"experiments/{method}").parser
    which = "--clip-model" if method.startswith("clip/") else "--network"
    needed = (*((which, network) if network else ()), *(("--attributes", "any") * method.endswith(SENTENCES)))
    return parser.parse_args([*needed, "--dataset", dataset, *words]), parser


@pytest.mark.parametrize(("method", "network", "dataset", "flag", "value"), STATED)
def test_stated_values_are_the_defaults(method, network, dataset, flag, value):
    args, parser = parsed(method, network, dataset)
    assert getattr(args, flag) == value
    assert own_flags(args, parser).keys() <= {"attributes"}  # so neither the folder's name nor the tables name it


def test_a_typed_flag_comes_before_the_table():
    args, parser = parsed("cnn/smm", "timm:vit_base_patch32_384", "dtd", "--batch-size", "256", "--mask-layers=5")
    assert (args.batch_size, args.mask_layers, args.mask_lr) == (256, 5, 0.001)
    assert own_flags(args, parser) == {"batch_size": 256, "mask_layers": 5}
    assert run_name(args, parser).endswith("_batch-size256_mask-layers5")
    assert parser.typed == {"network", "dataset", "batch_size", "mask_layers"}


def test_a_parser_forgets_the_values_of_an_earlier_call():
    parser = load_script("experiments/cnn/smm").parser
    for _ in range(2):
        vit = parser.parse_args(["--network", "timm:vit_base_patch32_384", "--dataset", "dtd"])
        other = parser.parse_args(["--network", "resnet18", "--dataset", "svhn", "--batch-size", "8"])
        assert (vit.batch_size, vit.mask_layers, vit.mask_lr) == (64, 6, 0.001)
        assert (other.batch_size, other.mask_layers, other.mask_lr, other.mask_schedule) == (8, 5, None, "step")
        assert "batch_size" in parser.typed
    assert parser.parse_args(["--network", "resnet18", "--dataset", "svhn"]).batch_size == 256


@pytest.mark.parametrize(
    ("method", "dataset", "words", "expected"),
    [
        ("cnn/blm_vp", "dtd", (), {"lr": "paper", "batch_size": "paper", "smoothing": "paper"}),
        ("cnn/blm_vp", "pictures", (), {"lr": "paper", "batch_size": "own"}),
        ("cnn/blm_vp", "dtd", ("--lr", "0.01"), {"lr": "flag", "epoch": "paper"}),
        ("cnn/ilm_vp", "dtd", (), {"lr": "paper", "batch_size": "paper"}),
        ("cnn/ilm_vp", "mine", (), {"lr": "paper", "batch_size": "own"}),
        ("cnn/ilm_vp", "mine", ("--shots", "4"), {"shots": "flag"}),
        ("cnn/lor_vp", "cifar10", (), {"lr": "own", "epoch": "own", "batch_size": "own", "rank": "paper"}),
        ("cnn/semantic_vp", "dtd", (), {"lr": "own", "epoch": "own"}),
        ("clip/linear_probing", "dtd", (), {"lr": "own"}),
        ("clip/fully_vp", "dtd", (), {"lr": "paper", "batch_size": "paper"}),
        ("clip/fully_vp", "dtd", ("--mapping-lr", "1"), {"mapping_lr": "flag"}),
    ],
)
def test_where_a_value_comes_from(method, dataset, words, expected):
    args, parser = parsed(method, "resnet18" if method.startswith("cnn") else None, dataset, *words)
    found = origins(args.method, vars(args), parser.typed)
    assert expected.items() <= found.items()
    assert found.keys() <= vars(args).keys()


def test_the_receipt_says_where_values_come_from(run_script, words):
    script = "experiments/cnn/blm_vp"
    result = run_script(script, *words(script), "--epoch", "1", "--device", "cpu")
    assert result["settings_from"] == {
        "lr": "paper",
        "epoch": "flag",
        "batch_size": "flag",
        "smoothing": "paper",
        "mapping_interval": "paper",
    }


def test_the_table_names_scripts_and_flags_that_there_are():
    for row in SETTINGS:
        parsers = {method: load_script(f"experiments/{method}").parser for method in row.methods.split()}
        assert row.states or row.values
        for name in (*row.states.split(), *row.values, *row.when):
            flag = "--" + name.replace("_", "-")
            assert any(name in {action.dest for action in parser._actions} for parser in parsers.values()), (
                f"{row.methods}: no script has {flag}"
            )
        for name, value in row.values.items():
            words = ["--" + name.replace("_", "-"), str(value)]
            for parser in parsers.values():
                network = [] if "clip" in parser.get_default("method") else ["--network", "resnet18"]
                if parser.get_default("method").endswith("/ares"):
                    network = ["--network", "resnet18", *(["--service", "resnet50"] if network else [])]
                if parser.get_default("method").endswith(SENTENCES):
                    network += ["--attributes", "any"]
                network += ["--black-box"] if "black_box" in row.when else []
                assert getattr(parser.parse_args([*network, "--dataset", "dtd", *words]), name) == value
        for dataset in row.when.get("dataset", "").split():
            assert any(entry.name.startswith(dataset.rstrip("*")) for entry in catalog.DATASETS)


def documented() -> list[str]:
    """The rows of the table in docs/methods.md: the scripts' defaults, then where the table of settings has others."""
    lines = []
    for script in METHODS:
        method = script.removeprefix("experiments/")
        parser = load_script(script).parser
        default = parser.get_default
        rows = [row for row in SETTINGS if method in row.methods.split() and row.values and row.source != OURS]
        exceptions = [_told(row) for row in rows if "clip_model" not in row.when]
        if of_one_clip := [_told(row) for row in rows if "clip_model" in row.when]:
            exceptions.append(f"with OpenAI's ViT-B/16: {'; '.join(of_one_clip)}")
        stated = {name for row in SETTINGS if method in row.methods.split() for name in row.states.split()}
        ours = [name.replace("_", " ") for name in ("lr", "epoch", "batch_size") if name not in stated]
        cells = (
            f"`{method}.py`",
            f"{default('lr'):g}",
            str(default("epoch")),
            str(default("batch_size") or "the data set's"),
            "; ".join(exceptions),
            ", ".join(ours),
        )
        lines.append(" ".join(f"| {cell}".rstrip() for cell in cells) + " |")
    return lines


def _told(row) -> str:
    """`lr 5.0 on `dtd` `svhn``: what a row sets, and where; but not on which CLIP."""
    values = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in row.values.items())
    where = [
        f"`{pattern}`" if name in ("dataset", "network") else _typed(name, pattern)
        for name, patterns in row.when.items()
        if name not in CLIP
        for pattern in patterns.split()
    ]
    return f"{values} on {' '.join(where)}" if where else values


def _typed(name: str, value: str) -> str:
    return f"`--{name.replace('_', '-')}`" if value == "True" else f"`--{name} {value}`"


def test_the_documents_table_of_settings_is_the_programs():
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert "\n".join(documented()) in text


@pytest.mark.parametrize(
    ("dataset", "lr", "c", "momentum"),
    [("svhn", 10, 0.01, 0.9), ("eurosat", 10, 0.005, 0.3), ("ucf101", 20, 0.01, 0.3)],
)
def test_what_blackvip_states_for_vp_as_a_black_box(dataset, lr, c, momentum):
    args, parser = parsed("clip/vp", B16, dataset, "--black-box")
    assert (args.lr, args.c, args.momentum, args.gamma, args.alpha, args.draws) == (lr, c, momentum, 0.1, 0.4, 5)
    assert (args.epoch * args.passes, args.batch_size, args.precision) == (5000, 128, "float32")
    assert own_flags(args, parser) == {"black_box": True}


@pytest.mark.parametrize(
    ("flags", "origin"),
    [
        (("--clip-model", B16), "paper"),
        (("--clip-model", B16, "--pretrained", "{clip}"), "paper"),  # whose weights are those of OpenAI, perhaps
        (("--clip-model", B16, "--pretrained", "dfn2b"), "own"),
        ((), "own"),
        (("--clip-config", "{clip}", "--pretrained", "{clip}"), "own"),
    ],
)
def test_blackvips_settings_are_those_of_one_clip(flags, origin, tmp_path):
    """With another CLIP the data set changes nothing, and the receipt calls the settings our own."""
    (tmp_path / "a.b").touch()
    flags = [flag.format(clip=tmp_path / "a.b") for flag in flags]
    names = {
        "clip/bar": "lr least_lr epoch batch_size passes image_size beta draws",
        "clip/blackvip": "lr epoch batch_size passes alpha draws encoder momentum gamma c strength",
        "clip/vp": "lr epoch batch_size passes alpha gamma c draws momentum",
    }
    for method, words in names.items():
        found = []
        for dataset in ("sun397", "mine"):
            args, parser = parsed(method, None, dataset, *flags, *["--black-box"] * (method == "clip/vp"))
            found.append([getattr(args, name) for name in words.split()])
        assert (found[0] == found[1]) == (origin == "own")
        args, parser = parsed(method, None, "sun397", *flags, *["--black-box"] * (method == "clip/vp"))
        where = origins(method, vars(args), parser.typed)
        assert {where[name] for name in words.split()} == {origin}


def test_vp_as_a_black_box_has_a_rate_for_it_on_any_clip():
    args, _ = parsed("clip/vp", None, "ucf101", "--black-box")
    assert (args.lr, args.epoch, args.passes, args.batch_size, args.precision) == (10, 250, 20, 128, "float32")


def test_vp_as_a_black_box(words, monkeypatch):
    seen = arguments_of_fit(
        "experiments/clip/vp", ("--black-box", "--budget", "7", "--passes", "1"), words, monkeypatch
    )
    optimizer, model = seen["optimizer"], seen["model"]
    assert type(optimizer).__name__ == "SPSA_GC" and optimizer.evaluations == 10
    assert type(model.network).__name__ == "BlackBox" and model.network.questions.most_calls == 7
    assert optimizer.param_groups[0]["lr"] == pytest.approx(10 / 2**0.4)


@pytest.mark.parametrize("words", [("--budget", "5"), ("--c", "0.5"), ("--draws", "2")])
def test_flags_of_a_black_box_are_refused_without_one(words):
    with pytest.raises(UserError, match=f"{words[0]} .*: training by gradients has no such setting"):
        parsed("clip/vp", None, "dtd", *words)


def test_bars_rate_ends_with_the_budget(words, monkeypatch):
    """A direction and the start are 2 questions a step, so 13 questions pay 6 steps, the last at the least rate."""
    flags = ("--budget", "13")
    seen = arguments_of_fit("experiments/cnn/bar", flags, words, monkeypatch)
    factor = seen["scheduler"].lr_lambdas[0]
    assert factor(4) > 0.01 and factor(5) == pytest.approx(0.01)
