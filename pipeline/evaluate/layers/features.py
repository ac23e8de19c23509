"""Features of layers inside a network, collected by hooks in one forward pass, pooled to about 9,000 numbers each.

A feature map (C, H, H) is averaged to (C, s, s) with s = round(sqrt(9000 / C)), at most H. For DeepCluster's AlexNet s
is 10, 6, 5, 5 and 6 for conv1 to conv5: the 9,600, 9,216, 9,600, 9,600 and 9,216 features of
facebookresearch/deepcluster, eval_linear.py at 1b56becea, after Zhang et al. 2017 (split-brain autoencoders, section
4). Where H is not a multiple of s the windows differ from theirs by a pixel: adaptive pooling has no padding. The
output of a layer without a map (fc6, fc7) is used unchanged.

Letters: B images of a batch, C channels, H side of a feature map, S side of an image in pixels, D features.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.networks.network import Network

LayersForward = Callable[[Tensor], dict[str, Tensor]]

WANTED_FEATURES = 9000

LAYERS: dict[str, dict[str, str]] = {
    # After each ReLU.
    r"alexnet": {
        "conv1": "features.1",
        "conv2": "features.4",
        "conv3": "features.7",
        "conv4": "features.9",
        "conv5": "features.11",
        "fc6": "classifier.2",
        "fc7": "classifier.5",
    },
    # The stem includes its pooling.
    r"(timm/)?(resnet|resnext|wide_resnet)": {
        "stem": "maxpool",
        "stage1": "layer1",
        "stage2": "layer2",
        "stage3": "layer3",
        "stage4": "layer4",
    },
    # A stage has one resolution; the last ends with the 1x1 convolution.
    r"mobilenet_v2": {
        "stem": "features.0",
        "stage1": "features.3",
        "stage2": "features.6",
        "stage3": "features.13",
        "stage4": "features.18",
    },
    r"conv4": {"conv1": "3", "conv2": "7", "conv3": "11", "conv4": "15"},
}  # regular expression for the start of an architecture's name, to its layers: name and module of each, in order


def layers_of(network: Network, chosen: Sequence[str] = ()) -> dict[str, str]:
    """Return names and modules of a network's layers, in order.

    Only those ``chosen`` are returned, if any are.

    Raises:
        InputError: If the layers of the architecture are not known, or it has no layer of that name.
    """
    known = next((layers for start, layers in LAYERS.items() if re.match(start, network.architecture)), {})
    modules = dict(network.module.named_modules())
    if not known or not all(path in modules for path in known.values()):
        raise InputError(
            f"The layers of {network.architecture} are not known; 'evaluate layers' supports AlexNet, ResNets, "
            "MobileNet-V2 and conv4."
        )
    for name in chosen:
        if name not in known:
            raise unknown_name("layer", name, known)
    return {name: path for name, path in known.items() if not chosen or name in chosen}


@contextlib.contextmanager
def layer_outputs(network: Network, layers: Mapping[str, str]) -> Iterator[LayersForward]:
    """Yield a function from uint8 images (B, S, S, 3) to the pooled features (B, D), float32, of each layer."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs[name] = pooled(output)

    def forward(images: Tensor) -> dict[str, Tensor]:
        network.features(images)
        return {name: outputs.pop(name) for name in layers}

    with contextlib.ExitStack() as hooks:
        for name, path in layers.items():
            hook = network.module.get_submodule(path).register_forward_hook(partial(keep, name))
            hooks.callback(hook.remove)
        yield forward


@torch.inference_mode()
def feature_counts(network: Network, layers: Mapping[str, str], size: int, device: torch.device) -> dict[str, int]:
    """Return the number of features D of each layer for images of S = ``size`` pixels."""
    with layer_outputs(network, layers) as forward:
        return {
            name: features.shape[1]
            for name, features in forward(torch.zeros(1, size, size, 3, dtype=torch.uint8, device=device)).items()
        }


def pooled(output: Tensor) -> Tensor:
    """Pool a layer's output (B, C, H, H) or (B, D) to features (B, D), float32."""
    if output.ndim == 4:
        channels, side = output.shape[1], output.shape[2]
        output = adaptive_avg_pool2d(output.float(), min(side, max(1, round(math.sqrt(WANTED_FEATURES / channels)))))
    return output.float().flatten(1)
