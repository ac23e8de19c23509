"""Networks for small images: conv4, a narrow ResNet-18, and torchvision's networks adapted to 32 pixels."""

import re
from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from compress_ssl.pipeline.networks.backbone import Backbone


def conv4(width: int) -> Backbone:
    """Return four blocks of convolution, batch norm, ReLU and max-pool, then the mean.

    The network of Matching Networks (Vinyals et al. 2016). The ReLU follows the pooling, which computes the same and is
    nearly twice as fast on a CPU.
    """
    layers: list[nn.Module] = []
    for inputs in (3, width, width, width):
        layers += [
            nn.Conv2d(inputs, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.ReLU(),
        ]
    return Backbone(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), width)


class NarrowResNet18(ResNet):  # type: ignore[misc]  # torchvision comes without types
    """ResNet-18 with half the channels after its first convolution."""

    def __init__(self) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2])

    def _make_layer(self, block: type[nn.Module], planes: int, *others: Any, **options: Any) -> nn.Sequential:
        layer: nn.Sequential = super()._make_layer(block, planes // 2, *others, **options)
        return layer


def narrow_resnet() -> Backbone:
    """Return a ResNet-18 with 32 to 256 channels for 32-pixel images: 38 million multiply-adds per image, not 555."""
    network = NarrowResNet18()
    _small_resnet_stem(network, stride=2)
    network.fc = nn.Identity()
    return Backbone(network, 256)


def small_image_stem(name: str) -> Callable[[nn.Module], None] | None:
    """Return the function that adapts a network of torchvision to 32-pixel images; None for most networks."""
    if re.match(r"(resnet|resnext|wide_resnet)\d+", name):
        return _small_resnet_stem
    return {"mobilenet_v2": _small_mobilenet_stem, "alexnet": _small_alexnet_stem}.get(name)


def _small_resnet_stem(network: nn.Module, stride: int = 1) -> None:
    """Replace a ResNet's stem by a 3x3 convolution without max-pool (He et al. 2016, section 4.2)."""
    network.conv1 = nn.Conv2d(3, 64, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()


def _small_mobilenet_stem(network: nn.Module) -> None:
    """Set the stride of MobileNet-V2's first convolution to 1; its weights keep their shape."""
    network.get_submodule("features.0.0").stride = (1, 1)  # type: ignore[assignment]


def _small_alexnet_stem(network: nn.Module) -> None:
    """Replace AlexNet's first convolution by 3x3 with stride 1 and drop its third max-pool.

    32 pixels give 7 x 7 positions. Only ``features.0.weight`` differs in shape from torchvision's.
    """
    features = network.get_submodule("features")
    assert isinstance(features, nn.Sequential)
    features[0] = nn.Conv2d(3, 64, 3, padding=1)
    features[12] = nn.Identity()
