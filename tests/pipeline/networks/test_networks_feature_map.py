"""The feature map of any network, from the pass that computes its features."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.networks.architectures import build_backbone
from compress_ssl.pipeline.networks.feature_map import MapHook, find_map_layer, grid_side, pool_map


def mapped(network: nn.Module, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, features and map of one pass."""
    hook = MapHook(network, find_map_layer(network, size))
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = network.eval()(images)
    return images, features, hook.take()


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_vit4", "vit_tiny_patch16-12heads"])
def test_a_vit_gives_its_patch_tokens_row_by_row_without_the_prefix(name: str) -> None:
    network = build_backbone(name).module
    images, _, found = mapped(network, 64)
    with torch.inference_mode():
        tokens = network.forward_features(images)  # type: ignore[operator]
    prefix = int(network.num_prefix_tokens)  # type: ignore[arg-type]
    assert prefix > 0
    assert found.shape == (2, tokens.shape[2], 4, 4)
    for position in range(16):
        torch.testing.assert_close(found[:, :, position // 4, position % 4], tokens[:, prefix + position])


@pytest.mark.parametrize(
    ("name", "size", "side"),
    [("resnet18", 64, 2), ("conv4-32", 32, 2), ("resnet18-32px", 32, 4), ("timm/tf_efficientnet_lite0", 96, 3)],
)
def test_the_mean_of_a_cnns_map_is_its_feature(name: str, size: int, side: int) -> None:
    _, features, found = mapped(build_backbone(name).module, size)
    assert found.shape[2:] == (side, side)
    torch.testing.assert_close(found.mean(dim=(2, 3)), features)


def test_a_swin_transformers_map_has_its_channels_first() -> None:
    _, features, found = mapped(build_backbone("swin_t").module, 64)
    assert found.shape == (2, 768, 2, 2)
    torch.testing.assert_close(found.mean(dim=(2, 3)), features)


def test_a_users_network_gives_the_last_map_before_an_adaptive_pooling() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images, _, found = mapped(network, 8)
    torch.testing.assert_close(found, network[1](network[0](images)))
    assert network.training is False


def test_the_probe_leaves_the_network_as_it_was() -> None:
    network = build_backbone("resnet18").module.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    find_map_layer(network, 64)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_network_without_a_map_and_a_grid_larger_than_the_map_are_refused() -> None:
    with pytest.raises(InputError, match="no square map of more than one position for images of 8 pixels"):
        find_map_layer(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), 8)
    layer = find_map_layer(build_backbone("timm/test_vit").module, 64)
    assert (grid_side(layer, None, 7), grid_side(layer, 2, 7)) == (4, 2)
    with pytest.raises(InputError, match=r"The map is 4 x 4; --patch-grid must be at most 4\."):
        grid_side(layer, 5, 7)


def test_pooling_averages_the_positions_of_each_cell() -> None:
    found = torch.rand(2, 3, 6, 6)
    pooled = pool_map(found, 3).numpy()
    for row, column in np.ndindex(3, 3):
        cell = found[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].numpy().mean(axis=(2, 3))
        np.testing.assert_allclose(pooled[:, 3 * row + column], cell, rtol=1e-6)
