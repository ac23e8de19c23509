"""Networks without their classifier, against torchvision's with a hook before its last layer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import models
from torchvision.ops import StochasticDepth

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.networks.architectures import architecture_names, build_backbone, default_preprocessing
from compress_ssl.pipeline.networks.network import load_network
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.networks.torchvision_models import without_head

# Each family: where torchvision keeps the classifier's last layer, how many features enter it, the side of an image.
FAMILIES = [
    ("alexnet", "classifier.6", 4096, 64),
    ("densenet121", "classifier", 1024, 32),
    ("efficientnet_b0", "classifier.1", 1280, 32),
    ("mnasnet0_5", "classifier.1", 1280, 32),
    ("mobilenet_v2", "classifier.1", 1280, 32),
    ("mobilenet_v3_small", "classifier.3", 1024, 32),
    ("regnet_y_400mf", "fc", 440, 32),
    ("resnet18", "fc", 512, 32),
    ("resnet50", "fc", 2048, 32),
    ("shufflenet_v2_x0_5", "fc", 1024, 32),
    ("convnext_tiny", "classifier.2", 768, 32),
    ("swin_t", "head", 768, 32),
    ("efficientnet_v2_s", "classifier.1", 1280, 32),
    ("mobilenet_v3_large", "classifier.3", 1280, 32),
    ("resnet34", "fc", 512, 32),
    ("vit_b_16", "heads.head", 768, 224),
    ("vit_b_32", "heads.head", 768, 224),
]

SMALL_IMAGES = [("resnet18-32px", 512), ("resnet50-32px", 2048), ("resnext50_32x4d-32px", 2048),
                ("mobilenet_v2-32px", 1280), ("alexnet-32px", 4096), ("resnet18-narrow-32px", 256),
                ("resnet18-quarter-32px", 128)]  # fmt: skip


def images(size: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def entering(network: nn.Module, layer: str, pictures: Tensor) -> Tensor:
    """What enters one layer of a network."""
    caught: list[Tensor] = []
    # A copy: a ReLU may change it in place.
    hook = network.get_submodule(layer).register_forward_pre_hook(lambda module, given: caught.append(given[0].clone()))
    with torch.no_grad():
        network(pictures)
    hook.remove()
    return caught[0]


@pytest.mark.parametrize(("name", "layer", "dim", "size"), FAMILIES)
def test_features_are_what_enters_the_last_layer_of_torchvisions_network(
    name: str, layer: str, dim: int, size: int
) -> None:
    torch.manual_seed(0)
    theirs = models.get_model(name, weights=None).eval()
    pictures = images(size)
    expected = entering(theirs, layer, pictures)
    keys = [key for key in theirs.state_dict() if not key.startswith(f"{layer}.")]
    backbone = without_head(theirs)
    with torch.no_grad():
        features = backbone.module(pictures)
    assert features.shape == (2, dim)
    assert backbone.feature_dim == dim
    torch.testing.assert_close(features, expected, rtol=0, atol=0)
    assert list(backbone.module.state_dict()) == keys


class RandomNumbers(TorchDispatchMode):
    """Counts the numbers that are drawn into tensors."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("normal_", "uniform_"):
            self.count += args[0].numel()
        return func(*args, **(kwargs or {}))


class UsedMemory(TorchFunctionMode):
    """Allocates memory that holds large numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        return made.fill_(1e30) if func in (torch.empty, torch.empty_like) and made.is_floating_point() else made


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "name",
    [
        *("alexnet", "resnet18-32px", "mobilenet_v2", "convnext_tiny", "swin_t", "vit_b_32"),
        *("timm/vit_tiny_patch16_224", "timm/efficientnet_lite0", "timm/hiera_tiny_224"),
    ],
)
def test_weights_that_a_file_replaces_are_not_drawn(name: str, tmp_path: Path) -> None:
    with RandomNumbers() as drawn:
        initial = build_backbone(name).module
    assert drawn.count > 0.9 * sum(value.numel() for value in initial.parameters())
    with UsedMemory(), RandomNumbers() as drawn:
        empty = build_backbone(name, seed=None).module
    assert drawn.count == 0
    assert max(parameter.abs().max() for parameter in empty.parameters()) < 1e30
    for (key, buffer), (other, theirs) in zip(empty.named_buffers(), initial.named_buffers(), strict=True):
        assert key == other
        assert torch.equal(buffer, theirs)
    torch.save(initial.state_dict(), tmp_path / "weights.pth")
    with RandomNumbers() as drawn:
        loaded = load_network(f"{name}:{tmp_path / 'weights.pth'}").module.state_dict()
    assert drawn.count == 0
    assert loaded.keys() == initial.state_dict().keys()
    assert all(torch.equal(loaded[key], value) for key, value in initial.state_dict().items())


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_classifiers_of_torchvision_end_in_the_layer_that_is_taken_away(step: int) -> None:
    """On the meta device, so that they cost no memory; a RegNet cannot be made there, and is among the families."""
    names = set(architecture_names()) & set(models.list_models(module=models))
    for name in sorted(names)[::step]:
        if name.startswith("regnet"):
            continue
        with torch.device("meta"):
            theirs = models.get_model(name, weights=None)
        last = [layer for layer in theirs.modules() if not list(layer.children())][-1]
        assert isinstance(last, nn.Linear), name
        assert last.out_features == 1000, name
        assert without_head(theirs).feature_dim == last.in_features


def test_alexnets_features_are_those_after_the_relu_of_its_second_layer() -> None:
    backbone = build_backbone("alexnet")
    pictures = images(64, 8)
    with torch.no_grad():
        features = backbone.module.eval()(pictures)
        before = entering(backbone.module, "classifier.5", pictures)
    assert features.shape == (8, 4096)
    assert (before < 0).any()
    assert (features >= 0).all()
    torch.testing.assert_close(features, before.relu(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["alexnet", "mobilenet_v2", "mnasnet0_5", "efficientnet_b0", "swin_t"])
def test_there_is_no_dropout_or_stochastic_depth_in_training(name: str) -> None:
    module = build_backbone(name).module.train()
    random = (nn.Dropout, StochasticDepth)
    assert any(isinstance(layer, random) and layer.p for layer in models.get_model(name, weights=None).modules())
    pictures = images(64, 4)
    first = module(pictures)
    torch.testing.assert_close(module(pictures), first, rtol=0, atol=0)
    if name == "alexnet":  # no batch norm either: training is evaluation
        torch.testing.assert_close(module.eval()(pictures), first, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "dim"), SMALL_IMAGES)
def test_networks_for_small_images_see_all_of_them(name: str, dim: int) -> None:
    """A 224-pixel network has one place left of 32 pixels; these have 4 x 4 or more before the mean."""
    backbone = build_backbone(name)
    assert backbone.feature_dim == dim
    sizes: list[torch.Size] = []
    last = backbone.module.get_submodule({"m": "features.18", "a": "features"}.get(name[0], "layer4"))
    last.register_forward_hook(lambda module, given, got: sizes.append(got.shape[2:]))
    with torch.no_grad():
        features = backbone.module.eval()(images(32))
    assert features.shape == (2, dim)
    expected = {"mobilenet_v2-32px": 2, "resnet18-narrow-32px": 2, "resnet18-quarter-32px": 2, "alexnet-32px": 7}
    side = expected.get(name, 4)
    assert tuple(sizes[0]) == (side, side)


def test_networks_for_small_images_have_torchvisions_names_and_shapes_but_for_the_first_layer() -> None:
    for name in ["alexnet", "resnet18", "resnet50", "mobilenet_v2"]:
        with torch.device("meta"):
            theirs = without_head(models.get_model(name, weights=None)).module.state_dict()
        ours = build_backbone(f"{name}-32px").module.state_dict()
        assert list(ours) == list(theirs)
        different = [key for key, value in ours.items() if value.shape != theirs[key].shape]
        assert different == {"alexnet": ["features.0.weight"], "mobilenet_v2": []}.get(name, ["conv1.weight"])


def test_conv4_takes_images_of_any_size() -> None:
    for size in [8, 15, 16, 84]:
        for width in (16, 32, 64, 128):
            backbone = build_backbone(f"conv4-{width}")
            assert backbone.module(images(size)).shape == (2, width)
            assert backbone.feature_dim == width


@pytest.mark.parametrize("name", ["resnet18-32px", "conv4-16", "mobilenet_v2"])
def test_weights_are_those_of_the_seed_and_nothing_else_is_drawn(name: str) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = build_backbone(name, 1).module.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    again, other = build_backbone(name, 1).module.state_dict(), build_backbone(name, 2).module.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    drawn = [key for key, value in first.items() if value.ndim > 1]
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


def test_unknown_architecture_is_answered_with_the_nearest() -> None:
    for wrong, meant in [
        ("resnet81", "resnet18"),
        ("resnet-18", "resnet18"),
        ("mobilenetv2", "mobilenet_v2"),
        ("conv4-48", "conv4-"),
    ]:
        with pytest.raises(InputError, match=f"There is no architecture '{wrong}'. Did you mean '{meant}") as caught:
            build_backbone(wrong)
        assert str(caught.value).endswith("All are listed by: compress-ssl models '*PART-OF-NAME*'")
        assert len(str(caught.value)) < 300


def test_architecture_wants_what_its_images_are() -> None:
    assert default_preprocessing("resnet50-w4") == default_preprocessing("conv4-16") == Preprocessing()
    assert default_preprocessing("resnet18-32px") == Preprocessing(size=32, resize=32)


def test_networks_whose_features_are_not_one_vector_are_not_offered() -> None:
    for name in ("googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1"):
        assert name not in architecture_names()
