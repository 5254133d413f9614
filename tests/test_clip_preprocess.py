"""How a file's images are prepared: who says it, when it has to be asked, and that a checkpoint keeps it."""

import json

import open_clip
import pytest
import torch
from test_experiments import checkpoint, only_run
from tiny import CLIP_ARCHITECTURE, make_clip

from errors import UserError
from models.clip_preprocess import spelled
from models.clip_source import find_clip
from models.restore import clip_row

OPENAI = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
HALF = (0.5,) * 3


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"not read here")
    return str(path)


def test_a_file_is_asked_about_exactly_where_the_tags_disagree(file):
    refused = set()
    for model in open_clip.list_models():
        tags = open_clip.list_pretrained_tags_by_model(model)
        keys = ("mean", "std", "resize_mode", "interpolation")
        ways = {tuple(str(open_clip.get_pretrained_cfg(model, tag)[key]) for key in keys) for tag in tags}
        if type(open_clip.get_model_config(model)["vision_cfg"].get("image_size", 224)) is not int:
            continue
        try:
            find_clip(model, file)
        except UserError as error:
            assert "does not say how its images were normalised" in str(error)
            assert all(f"--preprocess {tag}" in error.next_step for tag in first_tags(model))
            refused.add(model)
        assert (model in refused) == (len(ways) > 1)
    assert {"ViT-L-14", "ViT-H-14", "ViT-H-14-quickgelu"} <= refused


def first_tags(model: str) -> set[str]:
    first: dict[str, str] = {}
    for tag in open_clip.list_pretrained_tags_by_model(model):
        first.setdefault(spelled(open_clip.get_pretrained_cfg(model, tag)), tag)
    return set(first.values())


@pytest.mark.parametrize(
    ("model", "preprocess", "mean", "std", "squash", "bicubic"),
    [
        ("ViT-L-14", "openai", *OPENAI, False, True),
        ("ViT-L-14", "laion2b_s32b_b82k", HALF, HALF, False, True),
        ("ViT-H-14", "dfn5b", *OPENAI, True, True),
        ("ViT-L-14", "0.5:0.25", HALF, (0.25,) * 3, False, True),
        ("ViT-L-14", ".1,.2,.3:1:squash", (0.1, 0.2, 0.3), (1.0,) * 3, True, True),
        ("ViT-B-32", "0:1:bilinear:shortest", (0.0,) * 3, (1.0,) * 3, False, False),
    ],
)
def test_preprocess_says_it(model, preprocess, mean, std, squash, bicubic, file):
    row = find_clip(model, file, None, preprocess)
    assert (row.mean, row.std, row.squash, row.bicubic) == (mean, std, squash, bicubic)
    again = find_clip(model, file, None, row.names["preprocess"])
    assert again == row


@pytest.mark.parametrize(
    "text",
    "0.5 laion 0.5: :0.5 0.5:0 0.5:-1 nan:1 0.5:inf 0.5:0.5:longest 1,2:1 1:1,2 1:1:squash:squash a:b 1:1:".split(),
)
def test_what_preprocess_is_not(text, file):
    with pytest.raises(UserError) as caught:
        find_clip("ViT-L-14", file, None, text)
    assert f"--preprocess {text}:" in str(caught.value) and "MEAN:STD:squash" in caught.value.next_step


def test_a_tag_of_the_weights_needs_none():
    with pytest.raises(UserError, match="has its own preprocessing"):
        find_clip("ViT-B-32-quickgelu", "openai", None, "0.5:0.5")


@pytest.mark.parametrize("layout", ["flat", "hub"])
def test_the_preprocessing_of_a_config(layout, tmp_path, file):
    own = {"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3], "interpolation": "bilinear", "resize_mode": "squash"}
    content = {"model_cfg": CLIP_ARCHITECTURE} if layout == "hub" else CLIP_ARCHITECTURE
    config = tmp_path / f"own_{layout}.json"
    config.write_text(json.dumps({**content, "preprocess_cfg": own}))
    row = find_clip("any", file, str(config))
    assert (row.mean, row.std, row.squash, row.bicubic) == ((0.1, 0.2, 0.3), (1, 2, 3), True, False)
    assert row.input_size == 32 and row.model == f"own_{layout}"
    assert find_clip("any", file, str(config), "0.5:0.5").mean == HALF
    config.write_text(json.dumps(content))
    assert find_clip("any", file, str(config)).mean == OPENAI[0]


@pytest.mark.parametrize(
    ("own", "found"),
    [
        ({"mean": [1, 2]}, "mean [1, 2]"),
        ({"mean": "ab"}, "mean 'ab'"),
        ({"std": [0, 1, 1]}, "std [0, 1, 1]"),
        ({"mean": None}, "mean None"),
        ({"resize_mode": "longest"}, "resize_mode 'longest'"),
        ({"interpolation": ["bicubic"]}, "interpolation ['bicubic']"),
        ([], "preprocess_cfg as an object"),
    ],
)
def test_a_config_whose_preprocessing_is_none(own, found, tmp_path, file):
    config = tmp_path / "c.json"
    config.write_text(json.dumps({**CLIP_ARCHITECTURE, "preprocess_cfg": own}))
    with pytest.raises(UserError) as caught:
        find_clip("any", file, str(config))
    assert found in str(caught.value)


@pytest.mark.usefixtures("small")
def test_a_checkpoint_keeps_it(run_script, tmp_path):
    """Its config says something else later: the checkpoint's counts, and runs with another --preprocess are others."""
    flags = sum(make_clip(tmp_path).items(), ())
    script = "experiments/clip/zero_shot"
    how = ("--dataset", "small", "--preprocess", "0.25:0.5:squash")
    result = run_script(script, *flags, *how)
    run = only_run(script)
    assert "preprocess0.25-0.5-squash" in run.name
    assert "preprocess 0.25:0.5:squash" in json.loads((run / "args.json").read_text())["setting"]
    saved = checkpoint(run / "ckpt.pth")["setup"]["clip"]
    assert saved["preprocess"] == "0.25,0.25,0.25:0.5,0.5,0.5:squash:bicubic"
    again = run_script("tools/evaluate", "--checkpoint", run / "ckpt.pth")
    assert again["acc"] == result["test_acc_last"]
    config = tmp_path / "tiny-clip.json"
    config.write_text(json.dumps({**CLIP_ARCHITECTURE, "preprocess_cfg": {"mean": 0.9}}))
    row = clip_row(checkpoint(run / "ckpt.pth")["setup"])
    assert (row.mean, row.std, row.squash) == ((0.25,) * 3, (0.5,) * 3, True)
    with pytest.raises(UserError, match="the checkpoint's own network is needed"):
        run_script("tools/evaluate", "--checkpoint", run / "ckpt.pth", "--preprocess", "0.5:0.5")
    run_script(script, *flags, *how[:2])
    assert len(list(run.parent.iterdir())) == 2


def test_a_checkpoint_of_an_earlier_version_takes_the_first_tag(file):
    from torchvision.datasets.utils import calculate_md5

    clip = {"model": "ViT-L-14", "pretrained": file, "config": None, "md5": calculate_md5(file)}
    assert clip_row({"clip": clip}).mean == OPENAI[0]
    del clip["md5"]  # a checkpoint of the originals: the flags name the network
    with pytest.raises(UserError, match="does not say how its images"):
        clip_row({"clip": clip})


@pytest.mark.usefixtures("small")
def test_weights_with_more_than_tensors(run_script, tmp_path):
    import numpy as np

    files = make_clip(tmp_path)
    state = torch.load(files["--pretrained"], weights_only=True)
    torch.save({"state_dict": state, "accuracy": np.float64(0.5)}, files["--pretrained"])
    with pytest.raises(UserError) as caught:
        run_script("experiments/clip/zero_shot", *sum(files.items(), ()), "--dataset", "small")
    message = str(caught.value)
    assert "it holds more than tensors (numpy" in message and "save its state_dict alone" in message
    assert "\x1b" not in message and "weights_only" not in message
