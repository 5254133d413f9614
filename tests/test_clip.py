"""CLIP as a classifier against open_clip's own forward pass; its text bank, its names, and files that do not fit."""

import hashlib
import json
import math
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from conftest import load_script, same
from test_experiments import PROMPTS, RARE, checkpoint, only_run
from test_label_mapping import slow_frequency_mapping
from tiny import CLIP_ARCHITECTURE, make_clip

import cfg
from algorithms import label_mapping
from data.catalog import find_dataset
from data.loaders import build_loader
from errors import UserError
from models import clip_weights
from models.clip import TEMPLATES, build_classifier, build_encoder, encode_texts, load_clip, text_prompts, tokens_of
from models.clip_source import find_clip
from models.clip_weights import build_clip
from models.network_row import checkpoint_folder
from models.networks import CPU, Execution, Network

pytestmark = pytest.mark.numeric
CLIP_PROMPTS = [
    pytest.param(script, marks=pytest.mark.slow if script in RARE else ()) for script in PROMPTS if "/clip/" in script
]
NAMES = ("ant", "bee", "cow")
RESNET = CLIP_ARCHITECTURE | {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16}}
COCA = CLIP_ARCHITECTURE | {
    "custom_text": True,
    "vision_cfg": CLIP_ARCHITECTURE["vision_cfg"] | {"output_tokens": True, "attentional_pool": True},
    "text_cfg": CLIP_ARCHITECTURE["text_cfg"] | {"embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
ARCHITECTURES = {
    "gelu": CLIP_ARCHITECTURE,
    "quickgelu": CLIP_ARCHITECTURE | {"quick_gelu": True},
    "resnet": RESNET,
    "separate text tower": CLIP_ARCHITECTURE | {"custom_text": True},
    "coca": COCA,
}


def row_of(files: dict[str, str]):
    return find_clip("any", files["--pretrained"], files["--clip-config"])


def classifier(row, texts, run=CPU):
    """CLIP over these text prompts."""
    return build_classifier(row, run, texts, ["{}"])


@pytest.fixture
def tiny_row(tiny_clip):
    return row_of(tiny_clip)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_are_open_clips_own(name, plain, tmp_path, float64):
    row = row_of(make_clip(tmp_path, ARCHITECTURES[name]))
    network = classifier(row, text_prompts(TEMPLATES[:2], NAMES), Execution(torch.device("cpu"), plain=plain))
    reference, _, preprocess = open_clip.create_model_and_transforms("tiny-clip", pretrained=row.pretrained)
    reference.eval()
    images = torch.rand(4, 3, row.input_size, row.input_size)
    normalise = preprocess.transforms[-1]
    tokens = open_clip.get_tokenizer("tiny-clip")(text_prompts(TEMPLATES[:2], NAMES))
    with torch.no_grad():
        embedded = reference.encode_image(normalise(images), normalize=True)
        expected = reference.logit_scale.exp() * embedded @ reference.encode_text(tokens, normalize=True).T
        torch.testing.assert_close(network(images), expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 0.01
    assert network.class_names == tuple(text_prompts(TEMPLATES[:2], NAMES))


def test_the_activations_differ(tmp_path, float64):
    (tmp_path / "q").mkdir()
    rows = [row_of(make_clip(tmp_path, CLIP_ARCHITECTURE))]
    first = classifier(rows[0], NAMES)
    second = classifier(row_of(make_clip(tmp_path / "q", ARCHITECTURES["quickgelu"])), NAMES)
    images = torch.rand(4, 3, 32, 32)
    assert not torch.allclose(first(images), second(images), atol=1e-3)


@pytest.mark.parametrize(("stored", "used"), [(2.0, math.exp(2)), (math.log(100), 100), (7.5, 100)])
def test_the_scale_is_at_most_100(stored, used, tmp_path, float64):
    files = make_clip(tmp_path)
    state = torch.load(files["--pretrained"], weights_only=True)
    torch.save(state | {"logit_scale": torch.tensor(stored)}, files["--pretrained"])
    bank = classifier(row_of(files), NAMES).bank
    torch.testing.assert_close(bank.norm(dim=1), torch.full((3,), float(used)))


def test_templates():
    assert len(TEMPLATES) == 81
    assert TEMPLATES[0] == "This is a photo of a {}."
    assert TEMPLATES[1] == "a bad photo of a {}."
    assert TEMPLATES[1:] == tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)
    assert all(template.count("{}") == 1 for template in TEMPLATES)


def test_text_prompts_go_template_by_template():
    texts = text_prompts(("a {}.", "{} b"), NAMES)
    assert texts == ["a ant.", "a bee.", "a cow.", "ant b", "bee b", "cow b"]
    assert text_prompts(("a {}",), ("{0} {name} {}",)) == ["a {0} {name} {}"]  # a class name is text, not a format


def test_chunks_do_not_matter(tiny_row, float64):
    model, tokenize = build_clip(tiny_row)
    tokens = tokens_of(text_prompts(TEMPLATES[:5], NAMES), tokenize)
    whole = encode_texts(model, tokens)
    torch.testing.assert_close(encode_texts(model, tokens, chunk=4), whole)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(15))


def test_an_ensemble_is_the_mean_of_unit_embeddings(tiny_row, tiny_clip, float64):
    single = classifier(tiny_row, text_prompts(TEMPLATES[:4], NAMES)).bank
    scale = single.norm(dim=1)[0]
    mean = (single / scale).view(4, 3, 16).mean(0)
    which = SimpleNamespace(
        clip_model=None, pretrained=tiny_clip["--pretrained"], clip_config=tiny_clip["--clip-config"], preprocess=None
    )
    network = load_clip(which, CPU, TEMPLATES[:4], NAMES, ensemble=True)
    assert network.class_names == NAMES
    torch.testing.assert_close(network.bank, scale * mean / mean.norm(dim=1, keepdim=True))
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_frozen_and_always_in_eval_mode(tiny_row):
    network = classifier(tiny_row, NAMES).train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any("token_embedding" in name for name, _ in network.named_parameters())  # the text side is gone


def test_bfloat16_reaches_the_encoder_alone(tiny_row):
    images = torch.rand(8, 3, 32, 32)
    exact, rough = classifier(tiny_row, NAMES), classifier(tiny_row, NAMES, Execution(torch.device("cpu"), "bfloat16"))
    assert torch.equal(exact.bank, rough.bank)
    assert rough(images).dtype == torch.float32
    # Some 20 results on the way through 2 blocks are rounded, each by at most 2^-9: together, as independent errors,
    # sqrt(20) * 2^-9 = 0.009 of an embedding's length. A logit is e^3 = 20 times a cosine: 0.18, allowed 3 times.
    torch.testing.assert_close(rough(images), exact(images), rtol=0, atol=0.53)


def test_the_image_encoder(tiny_row, float64):
    reference = open_clip.create_model("tiny-clip", pretrained=tiny_row.pretrained).eval()
    images = torch.rand(2, 3, 32, 32)
    encoder = build_encoder(tiny_row, CPU, 0, True)
    with torch.no_grad():
        expected = reference.encode_image((images - encoder.mean) / encoder.std)
    torch.testing.assert_close(encoder(images), expected, rtol=1e-9, atol=1e-12)
    learning = build_encoder(tiny_row, CPU, num_classes=5, frozen=False)
    assert learning(images).shape == (2, 5)
    assert all(parameter.requires_grad for parameter in learning.parameters())


# In the scripts -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("script", "expected"), [("ilm_tp_vp", 81 * 4), ("single_tp_vp", 4), ("vp", 4), ("evp", 4)])
def test_the_text_bank_is_encoded_once(script, expected, run_script, words, monkeypatch):
    encoded, forwards = [], []
    encode, forward = open_clip.CLIP.encode_text, Network.forward

    def count(self, text, normalize=False):
        assert not forwards, "a text was encoded after the first image"
        encoded.append(len(text))
        return encode(self, text, normalize)

    monkeypatch.setattr(open_clip.CLIP, "encode_text", count)
    monkeypatch.setattr(Network, "forward", lambda self, x: forwards.append(1) or forward(self, x))
    run_script(f"experiments/clip/{script}", *words(f"experiments/clip/{script}"), "--epoch", 2)
    assert sum(encoded) == expected
    assert max(encoded) <= 256
    assert forwards


@pytest.mark.usefixtures("small")
def test_ilm_on_clip_is_the_map_of_the_cnn_side(run_script, words, tiny_row, float64):
    module = load_script("experiments/clip/ilm_tp_vp")
    assert module.frequency_label_mapping is label_mapping.frequency_label_mapping
    module.main([*words("experiments/clip/ilm_tp_vp"), "--epoch", "1", "--lr", "1e-30"])
    found = checkpoint(only_run("experiments/clip/ilm_tp_vp") / "ckpt.pth")["mapping_sequence"]

    reference, _, _ = open_clip.create_model_and_transforms("tiny-clip", pretrained=tiny_row.pretrained)
    splits = find_dataset("small").read()
    how = {"batch_size": 8, "device": torch.device("cpu"), "workers": 0, "cache_folder": None}
    train = build_loader(splits.train, tiny_row.preprocess, "x", **how)
    tokens = open_clip.get_tokenizer("tiny-clip")(text_prompts(TEMPLATES, splits.class_names))
    bank = encode_texts(reference.eval(), tokens)
    counts = torch.zeros(len(bank), 4, dtype=torch.int64)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (tiny_row.mean, tiny_row.std))
    with torch.no_grad():
        for images, labels in train:
            for image, label in zip(images, labels, strict=True):
                embedded = reference.encode_image(((image - mean) / std)[None])
                counts[(embedded @ bank.T).argmax(), label] += 1
    assert found.tolist() == slow_frequency_mapping(counts)


@pytest.mark.usefixtures("small")
def test_the_receipt_names_the_text_prompt_of_each_class(run_script, words):
    result = run_script("experiments/clip/ilm_tp_vp", *words("experiments/clip/ilm_tp_vp"), "--epoch", 1)
    texts = text_prompts(TEMPLATES, ("ant", "bee", "cow", "doe"))
    saved = checkpoint(only_run("experiments/clip/ilm_tp_vp") / "ckpt.pth")["mapping_sequence"]
    assert list(result["mapping"].values()) == [texts[source] for source in saved]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("number", [0, 7, 80])
def test_template_number(number, run_script, words):
    script = "experiments/clip/single_tp_vp"
    result = run_script(script, *words(script), "--epoch", 1, "--template-number", number)
    assert result["mapping"]["bee"] == TEMPLATES[number].replace("{}", "bee")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("script", CLIP_PROMPTS)
def test_only_the_prompt_learns_and_clip_stays(script, run_script, words, monkeypatch):
    built, create = [], open_clip.create_model
    monkeypatch.setattr(open_clip, "create_model", lambda *a, **k: built.append(create(*a, **k)) or built[-1])
    run_script(script, *words(script), "--epoch", 2, "--plain")
    state = checkpoint(only_run(script) / "ckpt.pth")["visual_prompt_dict"]
    if not script.endswith("/blackvip"):  # whose prompt is a decoder's output
        program = state["program"]
        if script.endswith("/dvp"):  # no sentence of the second cluster has a weight
            program = program[torch.tensor([True, False, True])]
        mask = state.get("mask", state.get("prompt.mask", torch.ones(())))  # ACAVP's moves with the image
        outside = mask.expand_as(program) == 0
        if not script.endswith(("/vp", "/bar")):  # they start from a normal everywhere
            assert torch.all(program[outside] == 0)
        if script.endswith("acavp"):
            assert 0.2 < (program != 0).float().mean() < 0.8
        elif not script.endswith(("/blm_vp", "/blmp_vp", "/ares")):
            # To BLM the targets are alike here: the tiny CLIP predicts one text prompt alone. AReS trains elsewhere.
            assert (program[~outside] != 0).float().mean() > 0.9
    assert len(built) == 1
    typed = words(script)
    fresh = create("tiny-clip", pretrained=typed[typed.index("--pretrained") + 1])
    assert same(dict(built[0].state_dict()), dict(fresh.state_dict()))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("method", ["padding", "fixed_patch", "random_patch"])
def test_vps_prompts(method, run_script, words, float64):
    script = "experiments/clip/vp"
    result = run_script(script, *words(script), "--epoch", 2, "--method", method, "--prompt-size", 60)
    run = only_run(script)
    program = checkpoint(run / "ckpt.pth")["visual_prompt_dict"]["program"]
    assert program.shape == ((3, 9, 9) if method == "random_patch" else (3, 32, 32))  # 60 of 224 are 9 of 32
    again = run_script("tools/evaluate", "--checkpoint", run / "ckpt.pth")
    assert again["acc"] == pytest.approx(result["test_acc_last"], abs=1e-9)
    assert again["loss"] == pytest.approx(
        json.loads((run / "log.jsonl").read_text().splitlines()[-1])["test_loss"], rel=1e-9
    )


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("ensemble", [(), ("--ensemble",), ("--template", "{} there")])
def test_zero_shot(ensemble, run_script, words, capsys):
    script = "experiments/clip/zero_shot"
    result = run_script(script, *words(script), *ensemble)
    assert (result["status"], result["epochs"], result["train_acc_last"]) == ("finished", 0, None)
    run = only_run(script)
    assert {path.name for path in run.glob("*.png")} == {"mapping.png", "curves.png"}
    assert f"Test accuracy {result['test_acc_last']:.4f} without training" in capsys.readouterr().out
    again = run_script("tools/evaluate", "--checkpoint", run / "best.pth")
    assert again["acc"] == result["test_acc_last"]
    assert run_script(script, *words(script), *ensemble) == result
    image = next((cfg.data_path / "small" / "test").rglob("*.png"))
    assert run_script("tools/predict", "--checkpoint", run / "best.pth", image)


# Names and files ----------------------------------------------------------------------------------------------------


def test_openais_weights_need_quickgelu():
    with pytest.raises(UserError, match="trained with QuickGELU, this model computes GELU") as caught:
        find_clip("ViT-B-32", "openai")
    assert caught.value.next_step == "Type --clip-model ViT-B-32-quickgelu --pretrained openai"
    row = find_clip("ViT-B-32-quickgelu", "openai")
    assert (row.input_size, row.squash, row.bicubic) == (224, False, True)
    assert (row.mean, row.std) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


@pytest.mark.parametrize("tag", ["laion2b_s34b_b79k", "datacomp_xl_s13b_b90k"])
def test_other_weights_need_gelu(tag):
    assert find_clip("ViT-B-32", tag).input_size == 224


def test_every_tag_of_open_clip_is_told_or_refused_with_the_right_model():
    for model, tag in open_clip.list_pretrained():
        try:
            row = find_clip(model, tag)
        except UserError as error:
            right = error.next_step.removeprefix("Type --clip-model ").partition(" ")[0]
            assert "the activation of the weights" in str(error), str(error)
            assert right in open_clip.list_models()
            row = find_clip(right, tag)
        published = open_clip.get_pretrained_cfg(model, tag)
        assert row.squash == (published["resize_mode"] != "shortest")
        assert row.mean == tuple(published["mean"])


def test_a_file_is_prepared_like_the_published_weights(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"")
    row = find_clip("ViT-B-16-SigLIP", str(tmp_path / "x.pt"))
    assert row.mean == (0.5, 0.5, 0.5)
    assert row.squash


MISTAKES = {
    "no such model": (("--clip-model", "ViT-B-3"), "Did you mean --clip-model ViT-B-32"),
    "no such tag": (("--pretrained", "opena"), "Did you mean --pretrained openai?"),
    "no such file": (("--pretrained", "x/y.pt"), "It is no file"),
    "no such config": (("--clip-config", "x.json"), "a JSON file with embed_dim"),
    "a template without a place": (("--template", "a photo"), "one {} for the class name"),
    "an enormous prompt": (("--prompt-size", "112"), "from 1 to 111"),
    "an enormous image": (("--image-size", "225"), "from 1 to 224"),
    "a config and a model": (("--clip-config", "x.json", "--clip-model", "RN50"), "not allowed with"),
    "an enormous name": (("--pretrained", "x" * 300), "It is no file"),
    "an enormous data set": (("--dataset", "x" * 300), "there is no such name"),
    "no such norm": (("--gradient-norm", "l3"), "invalid choice"),
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("flags", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_message(flags, message, run_script):
    with pytest.raises(UserError) as caught:
        run_script("experiments/clip/evp", "--dataset", "small", *flags)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3
    assert not list(cfg.results_path.rglob("args.json"))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "3",
        "{}",
        '{"embed_dim": 3, "vision_cfg": {}}',
        '["embed_dim", "vision_cfg", "text_cfg"]',
        '{"embed_dim": 3, "vision_cfg": 3, "text_cfg": {}}',
    ],
)
def test_a_config_that_is_none(content, tmp_path):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(UserError, match="a JSON file with embed_dim, vision_cfg and text_cfg is needed"):
        find_clip("any", "openai", str(tmp_path / "c.json"))


@pytest.mark.parametrize("change", ["cut", "foreign", "script", "other"])
def test_weights_that_do_not_fit(change, tmp_path):
    files = make_clip(tmp_path)
    path = tmp_path / "tiny-clip.pt"
    if change == "cut":
        path.write_bytes(path.read_bytes()[:10000])
    elif change == "foreign":
        path.write_text("no weights")
    elif change == "script":
        torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    else:
        torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="They cannot be read") as caught:
        classifier(row_of(files), NAMES)
    assert str(path) in str(caught.value)
    assert ("they are of another architecture (" in str(caught.value)) is (change == "other")


def test_half_precision_weights_of_another_architecture(tmp_path):
    """open_clip resizes their positional embedding first, and reports that PyTorch cannot do so in float16."""
    other = CLIP_ARCHITECTURE | {"vision_cfg": CLIP_ARCHITECTURE["vision_cfg"] | {"patch_size": 4, "width": 64}}
    files = make_clip(tmp_path, other)
    path = tmp_path / "tiny-clip.pt"
    torch.save({name: tensor.half() for name, tensor in torch.load(path, weights_only=True).items()}, path)
    (tmp_path / "tiny-clip.json").write_text(json.dumps(CLIP_ARCHITECTURE))
    with pytest.raises(UserError) as caught:
        classifier(row_of(files), NAMES)
    differs = "visual.class_embedding is (64,), not (32,), visual.positional_embedding is (65, 64), not (17, 32), "
    assert f"they are of another architecture ({differs}" in caught.value.found


class Holder(torch.nn.Module):
    """Tensors by their dotted names, as a module that can become a TorchScript archive."""

    def __init__(self, state: dict[str, torch.Tensor]):
        super().__init__()
        for name in dict.fromkeys(name.partition(".")[0] for name in state):
            own = {key.partition(".")[2]: value for key, value in state.items() if key.partition(".")[0] == name}
            if "" in own:
                self.register_buffer(name, own[""])
            else:
                self.add_module(name, Holder(own))

    def forward(self) -> int:
        return 0


OPENAI_ENTRIES = {
    "input_resolution": torch.tensor(32),
    "context_length": torch.tensor(32),
    "vocab_size": torch.tensor(49408),
}


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("kind", ["archive", "state dict"])
def test_weights_in_openais_format(kind, tmp_path, monkeypatch, caplog, float64):
    files = make_clip(tmp_path)
    expected = classifier(row_of(files), NAMES)
    path = tmp_path / "tiny-clip.pt"
    state = torch.load(path, weights_only=True) | OPENAI_ENTRIES
    if kind == "archive":
        torch.jit.script(Holder(state)).save(path)
        with pytest.raises(UserError, match="may hold code, and none that OpenAI published"):
            classifier(row_of(files), NAMES)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(clip_weights, "OPENAI_SHA256", clip_weights.OPENAI_SHA256 | {digest})
    else:
        torch.save(state, path)
    caplog.clear()
    found, images = classifier(row_of(files), NAMES), torch.rand(2, 3, 32, 32)
    assert torch.equal(found(images), expected(images))
    assert "initialized randomly" not in caplog.text


def test_openais_own_folder_is_looked_into(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(clip_weights.OPENAI_SHA256) == 9 and all(len(digest) == 64 for digest in clip_weights.OPENAI_SHA256)
    file = tmp_path / ".cache" / "clip" / "ViT-B-32.pt"
    file.parent.mkdir(parents=True)
    file.write_text("cut off")
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: 1 / 0)
    row = find_clip("ViT-B-32-quickgelu", "openai")
    with pytest.raises(UserError, match="could not be downloaded"):  # a damaged file there is not in the way
        classifier(row, NAMES)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    clip_weights._sha256.cache_clear()
    monkeypatch.setattr(clip_weights, "OPENAI_SHA256", clip_weights.OPENAI_SHA256 | {digest})
    with pytest.raises(UserError, match="They cannot be read") as caught:
        classifier(row, NAMES)
    assert str(file) in str(caught.value)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("save", [torch.save, lambda content, file: file.write_bytes(pickle.dumps(content))])
def test_nothing_in_a_file_is_executed(save, tmp_path):
    files = make_clip(tmp_path)
    save({"state_dict": Payload(tmp_path / "executed")}, tmp_path / "tiny-clip.pt")
    with pytest.raises(UserError, match="They cannot be read"):
        classifier(row_of(files), NAMES)
    assert not (tmp_path / "executed").exists()


def test_no_connection_names_file_and_flag(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    row = find_clip("ViT-B-32-quickgelu", "openai")
    with pytest.raises(UserError, match="no route to host") as caught:
        classifier(row, NAMES)
    assert "https://huggingface.co/timm/vit_base_patch32_clip_224.openai" in caught.value.next_step
    by_hand = checkpoint_folder() / "ViT-B-32-quickgelu-openai.safetensors"
    assert str(by_hand) in caught.value.found
    by_hand.parent.mkdir(parents=True)
    by_hand.write_text("not weights, but found")
    with pytest.raises(UserError, match="They cannot be read") as caught:
        classifier(row, NAMES)
    assert str(by_hand) in str(caught.value)
    assert (row.mean, row.md5) == (open_clip.OPENAI_DATASET_MEAN, None)  # prepared as its tag says


@pytest.mark.parametrize("size", [0, "64", [64, 32], True])
def test_an_architecture_without_a_size(size, tmp_path):
    files = make_clip(tmp_path)
    vision = CLIP_ARCHITECTURE["vision_cfg"] | {"image_size": size}
    (tmp_path / "tiny-clip.json").write_text(json.dumps(CLIP_ARCHITECTURE | {"vision_cfg": vision}))
    with pytest.raises(UserError, match="a square input is needed, its side a whole number"):
        row_of(files)


@pytest.mark.usefixtures("small")
def test_text_prompts_that_are_cut_to_the_same_are_refused(run_script, words):
    script = "experiments/clip/zero_shot"
    with pytest.raises(UserError, match="These have the same tokens: 'w w") as caught:
        run_script(script, *words(script), "--template", "w " * 90 + "{}")
    assert "in the first 32 tokens" in str(caught.value)


@pytest.mark.usefixtures("small")
def test_runs_of_other_weights_or_templates_are_other_runs(run_script, words, tiny_clip, tmp_path):
    """Weights of the same file name, templates that differ in a character that no folder's name may have."""
    script = "experiments/clip/zero_shot"
    other = make_clip(tmp_path, seed=1)
    make_clip(Path(tiny_clip["--pretrained"]).parent)  # open_clip knows an architecture by its file's name alone
    flags = sum(other.items(), ())
    results = [
        run_script(script, *words(script)),
        run_script(script, *flags, "--dataset", "small"),
        run_script(script, *words(script), "--template", "a {}?"),
        run_script(script, *words(script), "--template", "a {}!"),
        run_script(script, *words(script), "--template", "x " * 20 + "{}"),
    ]
    assert len(list((cfg.results_path / "clip" / "zero_shot").iterdir())) == 5
    assert results[0]["network"].startswith("tiny-clip-")
    assert results[0]["network"] != results[1]["network"]
    assert max(len(path.name) for path in (cfg.results_path / "clip" / "zero_shot").iterdir()) < 120


@pytest.mark.usefixtures("small")
def test_a_checkpoint_knows_its_weights(run_script, words, tmp_path):
    script = "experiments/clip/single_tp_vp"
    run_script(script, *words(script), "--epoch", 1)
    saved = only_run(script) / "ckpt.pth"
    other = make_clip(tmp_path, seed=1)
    with pytest.raises(UserError, match="The file holds others: its md5 is"):
        run_script("tools/evaluate", "--checkpoint", saved, "--pretrained", other["--pretrained"])
    for flags in (("--clip-model", "RN50"), ("--pretrained", "openai"), ("--network", "tiny")):
        with pytest.raises(UserError, match="the checkpoint's own network is needed"):
            run_script("tools/evaluate", "--checkpoint", saved, *flags)


@pytest.mark.usefixtures("small")
def test_a_class_name_may_be_anything(run_script, tiny_clip, small):
    for part in ("train", "val", "test"):
        (small / part / "ant").rename(small / part / "a {} $x^$ %s")
    flags = (*sum(tiny_clip.items(), ()), "--dataset", "small", "--template", r"b $\x$ {}")
    result = run_script("experiments/clip/vp", *flags, "--epoch", 1)
    assert r"b $\x$ a {} $x^$ %s" in result["mapping"].values()


@pytest.mark.usefixtures("small")
def test_zero_shot_stopped_just_before_its_end(run_script, words):
    script = "experiments/clip/zero_shot"
    result = run_script(script, *words(script))
    run = only_run(script)
    (run / "result.json").write_text(json.dumps(result | {"status": "running"}))
    assert run_script(script, *words(script)) == result
    assert len((run / "log.jsonl").read_text().splitlines()) == 1
