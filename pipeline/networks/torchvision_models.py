"""Networks of torchvision without their classifier, and our own variants of them, with torchvision's parameter names.

``architectures`` imports this module only for such a network: torchvision loads torch's compiler, which takes as long
as torch itself.
"""

import pickle
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.models import AlexNet, MobileNetV2
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import StochasticDepth

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.networks.backbone import SMALL_IMAGES, SOLO_LEARN, Backbone, disable_dropout
from compress_ssl.pipeline.networks.preprocessing import Preprocessing

UNSUITABLE = {"googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1"}
"""Networks that do not end in one linear layer on one feature vector."""

ADAPTED = re.compile(r"(resnet|resnext|wide_resnet)\d+|mobilenet_v2$|alexnet$")
"""Networks that are there for small images too."""


def torchvision_names() -> list[str]:
    """Return torchvision's own names."""
    return sorted(set(models.list_models(module=models)) - UNSUITABLE)


def variant_names() -> list[str]:
    """Return the names of our variants."""
    names = torchvision_names()
    small = [f"{name}{SMALL_IMAGES}" for name in names if ADAPTED.match(name)]
    return [*small, *(f"{name}{SOLO_LEARN}" for name in names if name.startswith("resnet")), *RESNETS]


def torchvision_backbone(name: str) -> Backbone:
    """Return one of ``torchvision_names`` or ``variant_names`` with initial weights."""
    if name in RESNETS:
        return RESNETS[name]()
    base = name.removesuffix(SOLO_LEARN).removesuffix(SMALL_IMAGES)
    network = models.get_model(base, weights=None)
    if name != base:
        adapt_to_small_images(network, padding=2 if name.endswith(SOLO_LEARN) else 1)
    return without_head(network)


def without_head(network: nn.Module) -> Backbone:
    """Replace the classifier, the last linear layer, by the identity; disable dropout and stochastic depth."""
    name, head = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]
    network.set_submodule(name, nn.Identity())
    disable_dropout(network)
    for layer in network.modules():
        if isinstance(layer, StochasticDepth):
            layer.p = 0.0
    return Backbone(network, head.in_features)


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


def narrow_resnet(scale: float) -> Backbone:
    """Return a ResNet-18 for small images with fewer channels, and a first convolution of stride 2.

    A half takes 38 million multiply-adds per image of 32 pixels, a quarter 11 million, the whole network 555 million.
    """
    network = ScaledResNet(BasicBlock, [2, 2, 2, 2], scale=scale)
    adapt_to_small_images(network, stride=2)
    network.fc = nn.Identity()
    return Backbone(network, int(512 * scale))


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


RESNETS: dict[str, Callable[[], Backbone]] = {
    f"resnet18-narrow{SMALL_IMAGES}": partial(narrow_resnet, 0.5),
    f"resnet18-quarter{SMALL_IMAGES}": partial(narrow_resnet, 0.25),
    **{f"resnet50-w{width}": partial(wide_resnet50, width) for width in (2, 4, 5)},
    "resnet50-tf-same": partial(wide_resnet50, 1, tf_same=True),
    **{f"resnet50-w{width}-tf-same": partial(wide_resnet50, width, tf_same=True) for width in (2, 4)},
}


def torchvision_pretrained(name: str) -> tuple[Backbone, Preprocessing]:
    """Return a network with torchvision's default weights, and their preprocessing.

    Raises:
        InputError: If the weights cannot be downloaded, or are damaged.
    """
    weights = models.get_model_weights(name).DEFAULT
    try:
        # Tensors only, before torchvision itself unpickles whatever file has this name.
        weights.get_state_dict(check_hash=True, weights_only=True)
        module = models.get_model(name, weights=weights)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"The weights of torchvision/{name} cannot be loaded ({str(error).splitlines()[0]}); download "
            f"{weights.url} to '{torch.hub.get_dir()}/checkpoints', replacing any file of that name."
        ) from error
    return without_head(module), torchvision_preprocessing(name)


def torchvision_preprocessing(name: str) -> Preprocessing:
    """Return the preprocessing that torchvision's default weights were evaluated with."""
    return _evaluated_with(models.get_model_weights(name).DEFAULT)


def preprocessing_of_torchvision_file(name: str, sha256: str) -> Preprocessing | None:
    """Return the preprocessing of a file of torchvision, whose name has the start of its SHA-256; None if unknown."""
    published = [each for each in models.get_model_weights(name) if each.url.endswith(f"-{sha256[:8]}.pth")]
    return _evaluated_with(published[0]) if published else None


def _evaluated_with(weights: models.WeightsEnum) -> Preprocessing:
    transforms = weights.transforms()
    return Preprocessing(
        tuple(transforms.mean),
        tuple(transforms.std),
        transforms.crop_size[0],
        transforms.resize_size[0],
        "bicubic" if transforms.interpolation.value == "bicubic" else "bilinear",
    )
