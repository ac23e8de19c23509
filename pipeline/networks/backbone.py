"""Networks without their classifier, torchvision's and our own: images (B, 3, S, S) in, features (B, F) out."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import AlexNet, MobileNetV2
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import StochasticDepth


class Backbone(NamedTuple):
    """A network that returns features, and their dimension."""

    module: nn.Module
    feature_dim: int


def without_head(network: nn.Module) -> Backbone:
    """Replace the last linear layer of a torchvision classifier by the identity, and disable dropout."""
    name, head = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]
    network.set_submodule(name, nn.Identity())
    disable_dropout(network)
    return Backbone(network, head.in_features)


def disable_dropout(network: nn.Module) -> None:
    """Set the rates of dropout and stochastic depth to 0.

    The published code of CompRess trains students without them, and a key encoder runs in training mode.
    """
    for layer in network.modules():
        if isinstance(layer, (nn.Dropout, StochasticDepth)):
            layer.p = 0.0


class ScaledResNet(ResNet):  # type: ignore[misc]  # torchvision comes without types
    """A ResNet with ``scale`` times as many channels; its layers expect at least 64 from the first convolution."""

    def __init__(self, block: type[nn.Module], layers: list[int], scale: float) -> None:
        self.scale = scale
        super().__init__(block, layers)

    def _make_layer(self, block: type[nn.Module], planes: int, *others: Any, **options: Any) -> nn.Sequential:
        if planes == 64:
            self.inplanes = max(64, int(64 * self.scale))
        layer: nn.Sequential = super()._make_layer(block, int(planes * self.scale), *others, **options)
        return layer


def wide_resnet50(width: int, tf_same: bool = False) -> Backbone:
    """Return a ResNet-50 with all channel counts times ``width``, as the teachers of SimCLR and SwAV.

    torchvision's ``wide_resnet50_2`` is another network: it widens only the middle of each block.

    The max-pool pads one pixel on each side, as the published PyTorch conversions of SimCLR's weights do. SimCLR itself
    pads it by TensorFlow's SAME rule: at an even size one pixel after and none before, which shifts every window by a
    pixel. Its strided convolutions are padded equally on both sides, as PyTorch's are (google-research/simclr,
    resnet.py: ``conv2d_fixed_padding`` and ``max_pooling2d(padding='SAME')``, commit 383d414; the same in
    tf2/resnet.py, commit be265c2). ``-tf-same`` is therefore for converted weights that are to give TensorFlow's
    features; it is wrong for weights trained or published for padding 1. Both have the same parameters, so a file does
    not identify its padding.
    """
    network = ScaledResNet(Bottleneck, [3, 4, 6, 3], scale=width)
    network.conv1 = nn.Conv2d(3, 64 * width, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.bn1 = nn.BatchNorm2d(64 * width)
    network.fc = nn.Identity()
    if tf_same:
        network.maxpool = SameMaxPool2d(3, 2)
    return Backbone(network, 2048 * width)


class SameMaxPool2d(nn.Module):
    """Max-pooling padded by TensorFlow's SAME rule: ceil(n / s) outputs of n pixels, an odd pixel after them."""

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, images: Tensor) -> Tensor:
        """Pool (B, C, H, W)."""
        height, width = images.shape[-2:]
        padding = (*self._padding(width), *self._padding(height))
        return functional.max_pool2d(functional.pad(images, padding, value=-torch.inf), self.kernel_size, self.stride)

    def _padding(self, size: int) -> tuple[int, int]:
        last_window = (-(-size // self.stride) - 1) * self.stride
        total = max(0, last_window + self.kernel_size - size)
        return total // 2, total - total // 2


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


def narrow_resnet() -> Backbone:
    """Return a ResNet-18 with 32 to 256 channels for 32-pixel images: 38 million multiply-adds per image, not 555."""
    network = ScaledResNet(BasicBlock, [2, 2, 2, 2], scale=0.5)
    adapt_to_small_images(network, stride=2)
    network.fc = nn.Identity()
    return Backbone(network, 256)


def adapt_to_small_images(network: nn.Module, stride: int = 1, padding: int = 1) -> None:
    """Adapt the first layers of torchvision's ResNet, MobileNet-V2 or AlexNet to 32-pixel images.

    ResNet gets a 3x3 convolution without max-pool (He et al. 2016, section 4.2), MobileNet-V2 a first convolution of
    stride 1. AlexNet's first convolution becomes 3x3 with stride 1, and its third max-pool is dropped: 32 pixels give
    7 x 7 positions. Only the weights of the replaced convolutions differ in shape from torchvision's.

    Args:
        stride: Of a ResNet's first convolution.
        padding: Of the same; solo-learn's is 2.
    """
    if isinstance(network, ResNet):
        network.conv1 = nn.Conv2d(3, 64, 3, stride, padding, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    elif isinstance(network, MobileNetV2):
        network.features[0][0].stride = (1, 1)
    elif isinstance(network, AlexNet):
        network.features[0] = nn.Conv2d(3, 64, 3, padding=1)
        network.features[12] = nn.Identity()
