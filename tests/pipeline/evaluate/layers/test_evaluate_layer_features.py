"""Layers taken by hooks: the right modules, the right pooling, and the network left as it was."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.evaluate.layers.features import feature_counts, layer_outputs, layers_of, pooled
from compress_ssl.pipeline.networks.network import Network, load_network

CPU = torch.device("cpu")


def images(size: int, count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def network_of(architecture: str) -> Network:
    network = load_network(f"random/{architecture}")
    network.module.eval()
    return network


def taken(network: Network, size: int) -> dict[str, Tensor]:
    with torch.no_grad(), layer_outputs(network, layers_of(network)) as take:
        return take(images(size))


def average(maps: Tensor, side: int) -> Tensor:
    """Adaptive averaging by its definition: window i of n places goes from floor(i n / s) to ceil((i + 1) n / s)."""
    count, channels, n, _ = maps.shape
    result = torch.zeros(count, channels, side, side)
    for i in range(side):
        for j in range(side):
            rows, columns = (slice(k * n // side, -(-(k + 1) * n // side)) for k in (i, j))
            result[:, :, i, j] = maps[:, :, rows, columns].mean(dim=(2, 3))
    return result.flatten(1)


def test_alexnets_layers_are_those_after_each_relu() -> None:
    network = network_of("alexnet")
    module, found = network.module, taken(network, 224)
    x = network.preprocessing.normalize(images(224))
    features, classifier = (list(module.get_submodule(part).children()) for part in ("features", "classifier"))
    expected, name = {}, 1
    with torch.no_grad():
        for layer in features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                expected[f"conv{name}"], name = x.clone(), name + 1
        x = module.get_submodule("avgpool")(x).flatten(1)
        for layer in classifier:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                expected[f"fc{name}"], name = x.clone(), name + 1
    assert list(found) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
    for layer, side in (("conv1", 12), ("conv2", 7), ("conv3", 5), ("conv4", 6), ("conv5", 6)):
        torch.testing.assert_close(found[layer], average(expected[layer], side), rtol=1e-4, atol=1e-6)
    for layer in ("fc6", "fc7"):
        torch.testing.assert_close(found[layer], expected[layer])
    torch.testing.assert_close(found["fc7"], network.features(images(224)).detach())


def test_resnets_stages_are_its_layers_and_the_last_one_is_before_the_mean() -> None:
    network = network_of("resnet18-narrow-32px")
    found = taken(network, 32)
    assert {name: features.shape[1] for name, features in found.items()} == {
        "stem": 64 * 12 * 12, "stage1": 32 * 16 * 16, "stage2": 64 * 8 * 8, "stage3": 128 * 4 * 4,
        "stage4": 256 * 2 * 2,
    }  # fmt: skip
    mean = found["stage4"].unflatten(1, (256, 4)).mean(2)
    torch.testing.assert_close(mean, network.features(images(32)).detach(), rtol=1e-4, atol=1e-5)


def test_conv4s_last_layer_has_the_networks_feature_as_its_mean() -> None:
    network = network_of("conv4-16")
    found = taken(network, 32)
    assert {name: features.shape[1] for name, features in found.items()} == {
        "conv1": 16 * 16 * 16, "conv2": 16 * 8 * 8, "conv3": 16 * 4 * 4, "conv4": 16 * 2 * 2,
    }  # fmt: skip
    torch.testing.assert_close(found["conv4"].unflatten(1, (16, 4)).mean(2), network.features(images(32)).detach())
    assert all((features >= 0).all() for features in found.values())


@pytest.mark.parametrize(
    ("architecture", "size", "counts"),
    [
        # FAIR's benchmark (Goyal et al. 2019) has the same sides for ResNet-50: 12, 6, 4, 3, 2.
        ("resnet50", 224, [64 * 144, 256 * 36, 512 * 16, 1024 * 9, 2048 * 4]),
        ("resnet18", 224, [64 * 144, 64 * 144, 128 * 64, 256 * 36, 512 * 16]),
        ("mobilenet_v2", 224, [32 * 17**2, 24 * 19**2, 32 * 17**2, 96 * 10**2, 1280 * 9]),
        ("mobilenet_v2-32px", 32, [32 * 17**2, 24 * 16**2, 32 * 8**2, 96 * 4**2, 1280 * 2**2]),
        ("alexnet-32px", 32, [64 * 144, 192 * 49, 384 * 25, 256 * 36, 256 * 36, 4096, 4096]),
        ("resnet50-w2-tf-same", 64, [128 * 64, 512 * 16, 1024 * 9, 2048 * 4, 4096 * 1]),
    ],
)
def test_layers_have_about_nine_thousand_features_or_all_there_are(
    architecture: str, size: int, counts: list[int]
) -> None:
    network = network_of(architecture)
    assert list(feature_counts(network, layers_of(network), size, CPU).values()) == counts


@pytest.mark.parametrize(
    ("channels", "places", "features"), [(96, 55, 9600), (256, 27, 9216), (384, 13, 9600), (256, 13, 9216)]
)
def test_deepclusters_alexnet_would_have_its_own_numbers_of_features(channels: int, places: int, features: int) -> None:
    assert pooled(torch.zeros(1, channels, places, places)).shape == (1, features)


@pytest.mark.parametrize(("places", "channels"), [(13, 384), (27, 256), (3, 1000), (1, 20_000), (5, 8)])
def test_pooling_averages_windows(places: int, channels: int) -> None:
    maps = torch.randn(1, channels, places, places, generator=torch.Generator().manual_seed(0))
    side = min(places, max(1, round(np.sqrt(9000 / channels))))
    torch.testing.assert_close(pooled(maps), average(maps, side), rtol=1e-4, atol=1e-5)


def test_half_precision_is_averaged_in_single() -> None:
    maps = torch.rand(1, 2000, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    assert pooled(maps).dtype == torch.float32
    torch.testing.assert_close(pooled(maps), pooled(maps.float()))
    assert pooled(torch.ones(2, 5, dtype=torch.float16)).dtype == torch.float32


def test_no_hook_is_left_behind() -> None:
    network = network_of("conv4-16")
    taken(network, 16)
    assert not any(module._forward_hooks for module in network.module.modules())


def test_chosen_layers_only_in_the_networks_order() -> None:
    assert list(layers_of(network_of("conv4-16"), ("conv3", "conv1"))) == ["conv1", "conv3"]
    with pytest.raises(InputError, match=r"There is no layer 'conv9'\. Did you mean 'conv"):
        layers_of(network_of("conv4-16"), ("conv9",))


def test_architecture_without_named_layers_is_one_sentence() -> None:
    with pytest.raises(
        InputError,
        match=r"layers of shufflenet_v2_x0_5 are not known; 'evaluate layers' supports AlexNet, ResNets, Mobile",
    ):
        layers_of(network_of("shufflenet_v2_x0_5"))
