"""Networks by name, without their classifier: images (B, 3, S, S) in, features (B, F) out.

``NAME`` is torchvision's name for it. ``NAME-32px`` is the same network for small images, with torchvision's own
parameter names. ``resnet18-narrow-32px`` has half its channels and a first convolution of stride 2: a teacher that a CPU
can train. ``conv4-W`` is the four-layer network of few-shot learning, W channels wide.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from pipeline.errors import unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable

CONV4_WIDTHS = (16, 32, 64, 128)

SMALL_IMAGES = "-32px"

NARROW_RESNET = f"resnet18-narrow{SMALL_IMAGES}"

# torchvision classifiers that do not end in one linear layer on one feature.
WITHOUT_LINEAR_HEAD = ("googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1")


class Backbone(NamedTuple):
    """A network that gives features, and how many."""

    module: nn.Module
    feature_dim: int


def architecture_names() -> list[str]:
    """Every name that ``build_backbone`` takes."""
    from torchvision import models

    names = [name for name in models.list_models(module=models) if name not in WITHOUT_LINEAR_HEAD]
    small = [f"{name}{SMALL_IMAGES}" for name in names if _small_image_stem(name)]
    return sorted([*names, *small, NARROW_RESNET, *(f"conv4-{width}" for width in CONV4_WIDTHS)])


def build_backbone(name: str, seed: int = 0) -> Backbone:
    """Build a network with weights drawn from ``seed``.

    Raises
    ------
    InputError
        If there is no such architecture; names the nearest.
    """
    if name not in architecture_names():
        raise unknown_name("architecture", name, architecture_names())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if match := re.fullmatch(r"conv4-(\d+)", name):
            return conv4(int(match[1]))
        if name == NARROW_RESNET:
            return narrow_resnet()
        from torchvision import models

        base = name.removesuffix(SMALL_IMAGES)
        network = models.get_model(base, weights=None)
        if name != base:
            stem = _small_image_stem(base)
            assert stem is not None
            stem(network)
        return without_head(network)


def without_head(network: nn.Module) -> Backbone:
    """Take a torchvision classifier's last linear layer away, and silence its dropout.

    Students are trained without dropout (CompRess, published code); in evaluation it does nothing anyway.
    """
    name, head = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Identity())
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return Backbone(network, head.in_features)


def conv4(width: int) -> Backbone:
    """Four times convolution, batch norm, ReLU and pooling, then the mean (Vinyals et al. 2016, Matching Networks).

    The ReLU comes after the pooling, which gives the same and is nearly twice as quick on a CPU.
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


def narrow_resnet() -> Backbone:
    """ResNet-18 with 32 to 256 channels for 32-pixel images: 38 million multiply-adds an image instead of 555."""
    from torchvision.models.resnet import BasicBlock, ResNet

    class NarrowResNet(ResNet):  # type: ignore[misc]  # torchvision comes without types
        def _make_layer(self, block: type[nn.Module], planes: int, *others: Any, **options: Any) -> nn.Sequential:
            layer: nn.Sequential = super()._make_layer(block, planes // 2, *others, **options)
            return layer

    network = NarrowResNet(BasicBlock, [2, 2, 2, 2])
    _small_resnet_stem(network, stride=2)
    network.fc = nn.Identity()
    return Backbone(network, 256)


def _small_image_stem(name: str) -> Callable[[nn.Module], None] | None:
    """How to fit this network to 32-pixel images, if that is known."""
    if re.match(r"(resnet|resnext|wide_resnet)\d+", name):
        return _small_resnet_stem
    return _small_mobilenet_stem if name == "mobilenet_v2" else None


def _small_resnet_stem(network: nn.Module, stride: int = 1) -> None:
    """Give a ResNet a 3x3 first convolution, of stride 1 by itself, and no max-pool (He et al. 2016, section 4.2)."""
    network.conv1 = nn.Conv2d(3, 64, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()


def _small_mobilenet_stem(network: nn.Module) -> None:
    """Give MobileNet-V2 a first convolution of stride 1; its weights keep their shape."""
    network.get_submodule("features.0.0").stride = (1, 1)  # type: ignore[assignment]
