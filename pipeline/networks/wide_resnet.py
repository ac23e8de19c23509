"""ResNet-50 with all channel counts times N, as the teachers of SimCLR and SwAV; with torchvision's parameter names.

torchvision's ``wide_resnet50_2`` is another network: it widens only the middle of each block.

The max-pool pads one pixel on each side, as the published PyTorch conversions of SimCLR's weights do. SimCLR itself
pads it by TensorFlow's SAME rule: at an even size one pixel after and none before, which shifts every window by a
pixel. Its strided convolutions are padded equally on both sides, as PyTorch's are (google-research/simclr, resnet.py:
``conv2d_fixed_padding`` and ``max_pooling2d(padding='SAME')``, commit 383d414; the same in tf2/resnet.py, commit
be265c2). ``-tf-same`` is therefore for converted weights that are to give TensorFlow's features; it is wrong for
weights trained or published for padding 1. Both have the same parameters, so a file does not identify its padding.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import Bottleneck, ResNet

from compress_ssl.pipeline.networks.backbone import Backbone


class WideResNet50(ResNet):  # type: ignore[misc]  # torchvision comes without types
    """ResNet-50 without classifier, ``width`` times as wide, including its first convolution."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(Bottleneck, [3, 4, 6, 3])
        self.conv1 = nn.Conv2d(3, 64 * width, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Identity()

    def _make_layer(self, block: type[nn.Module], planes: int, *others: Any, **options: Any) -> nn.Sequential:
        if planes == 64:
            self.inplanes = 64 * self.width
        layer: nn.Sequential = super()._make_layer(block, planes * self.width, *others, **options)
        return layer


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


def wide_resnet50(width: int, tf_same: bool = False) -> Backbone:
    """Return a ResNet-50 ``width`` times as wide; ``tf_same`` pads its max-pool as TensorFlow does."""
    network = WideResNet50(width)
    if tf_same:
        network.maxpool = SameMaxPool2d(3, 2)
    return Backbone(network, 2048 * width)
