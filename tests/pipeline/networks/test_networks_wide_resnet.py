"""Wide ResNets against torchvision's ResNet-50 and the paper's figures; TensorFlow's SAME max-pool against a loop."""

import math

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from compress_ssl.pipeline.networks.architectures import build_backbone
from compress_ssl.pipeline.networks.catalogue import count_flops
from compress_ssl.pipeline.networks.torchvision_models import SameMaxPool2d


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return build_backbone(name).module


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_channel_count_is_torchvisions_times_the_width() -> None:
    for width in [2, 4, 5]:
        narrow = {key: value.shape for key, value in on_meta("resnet50").state_dict().items()}
        wide = {key: value.shape for key, value in on_meta(f"resnet50-w{width}").state_dict().items()}
        assert list(wide) == list(narrow)
        for key, shape in narrow.items():
            channels = [count if axis > 1 or count == 3 else count * width for axis, count in enumerate(shape)]
            assert list(wide[key]) == channels, key


@pytest.mark.parametrize("name", ["resnet50-w2", "resnet50-w2-tf-same"])
def test_feature_has_the_width_that_is_told(name: str) -> None:
    module, feature_dim = build_backbone(name)
    with torch.no_grad():
        assert module.eval()(torch.rand(2, 3, 32, 32)).shape == (2, feature_dim) == (2, 4096)


def test_four_times_as_wide_is_the_papers_teacher() -> None:
    """Without classifier: 375.4 M parameters, 128 GFLOP an image at 224 pixels, 15.6 times ResNet-50 (design.md)."""
    wide, narrow = on_meta("resnet50-w4"), on_meta("resnet50")
    assert round(parameters(wide) / 1e6, 1) == 375.4
    flops = count_flops(wide, 224)
    assert round(flops / 1e9) == 128
    assert math.floor(10 * flops / count_flops(narrow, 224)) / 10 == 15.6
    assert (parameters(on_meta("resnet50-w4-tf-same")), count_flops(on_meta("resnet50-w4-tf-same"), 224)) == (
        parameters(wide),
        flops,
    )


def same_max_pool(images: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's SAME rule, window by window (tf.nn.convolution, notes on padding)."""
    batch, channels, height, width = images.shape
    before = [max(0, (math.ceil(n / stride) - 1) * stride + kernel - n) // 2 for n in (height, width)]
    pooled = torch.empty(batch, channels, math.ceil(height / stride), math.ceil(width / stride))
    for row in range(pooled.shape[2]):
        for column in range(pooled.shape[3]):
            top, left = row * stride - before[0], column * stride - before[1]
            window = images[:, :, max(0, top) : top + kernel, max(0, left) : left + kernel]
            pooled[:, :, row, column] = window.amax(dim=(2, 3))
    return pooled


def test_max_pool_follows_tensorflows_same_rule() -> None:
    for height, width in [(8, 8), (7, 7), (8, 7), (9, 112), (1, 2), (5, 5)]:
        for kernel, stride in [(3, 2), (2, 2), (3, 1), (3, 3), (5, 2), (1, 2)]:
            images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0)) - 3  # zeros would win
            ours = SameMaxPool2d(kernel, stride)(images)
            torch.testing.assert_close(ours, same_max_pool(images, kernel, stride), rtol=0, atol=0)


def test_windows_of_an_even_size_are_padded_after_and_of_an_odd_size_on_both_sides() -> None:
    """Counted by hand: of 0 1 2 3 come (0 1 2) and (2 3 -); of 0 1 2 3 4 come (- 0 1), (1 2 3) and (3 4 -)."""
    pool = SameMaxPool2d(3, 2)
    ramp = -torch.arange(5.0).repeat(5, 1)[None, None]  # falling, so that a window's first place is its greatest
    assert pool(ramp[..., :4])[0, 0, 0].tolist() == [0, -2]
    assert pool(ramp)[0, 0, 0].tolist() == [0, -1, -3]
    assert nn.MaxPool2d(3, 2, padding=1)(ramp[..., :4])[0, 0, 0].tolist() == [0, -1]


@pytest.mark.parametrize(("size", "same_windows"), [(64, False), (66, True)])
def test_only_the_max_pool_of_tf_same_differs_and_only_at_even_sizes(size: int, same_windows: bool) -> None:
    """Images of 64 pixels reach the pool with 32, those of 66 with 33."""
    theirs = models.resnet50(weights=None).eval()
    theirs.fc = nn.Identity()
    ours = build_backbone("resnet50-tf-same").module.eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, padded_alike = ours(images), theirs(images)
        assert torch.allclose(features, padded_alike, rtol=1e-5, atol=1e-6) == same_windows
        theirs.maxpool = SameMaxPool2d(3, 2)
        torch.testing.assert_close(features, theirs(images), rtol=0, atol=0)
