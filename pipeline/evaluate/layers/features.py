"""Features of layers inside a network, collected by hooks in one forward pass, pooled to about 9,000 numbers each.

A feature map (C, H, H) is averaged to (C, s, s) with s = round(sqrt(9000 / C)), at most H. For DeepCluster's AlexNet s
is 10, 6, 5, 5 and 6 for conv1 to conv5: the 9,600, 9,216, 9,600, 9,600 and 9,216 features of
facebookresearch/deepcluster, eval_linear.py at 1b56becea, after Zhang et al. 2017 (split-brain autoencoders, section
4). Where H is not a multiple of s the windows differ from theirs by a pixel: adaptive pooling has no padding. The
output of a layer without a map (fc6, fc7) is used unchanged.

Letters: N images, B images of a batch, P augmentation parameters, C channels, D features,
H side of a feature map, S side of an image in pixels.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from compress_ssl.pipeline.common.device import autocast, choose_precision
from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.evaluate.feature_source import FeatureSource
from compress_ssl.pipeline.evaluate.settings import LayersSettings
from compress_ssl.pipeline.images.index import ImageIndex
from compress_ssl.pipeline.images.parameters import evaluation_parameters, uniform_draws
from compress_ssl.pipeline.images.rendering import RenderJob, render
from compress_ssl.pipeline.networks.network import Network
from compress_ssl.pipeline.training.schedule import epoch_order
from compress_ssl.storage.parameters import COLUMN

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
    r"(timm/)?(resnet|resnext|wide_resnet)": {"stem": "maxpool", **{f"stage{n}": f"layer{n}" for n in range(1, 5)}},
    # A stage has one resolution; the last ends with the 1x1 convolution.
    r"mobilenet_v2": {"stem": "features.0", **{f"stage{n}": f"features.{m}" for n, m in enumerate((3, 6, 13, 18), 1)}},
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
        features = forward(torch.zeros(1, size, size, 3, dtype=torch.uint8, device=device))
        return {name: rows.shape[1] for name, rows in features.items()}


def pooled(output: Tensor) -> Tensor:
    """Pool a layer's output (B, C, H, H) or (B, D) to features (B, D), float32."""
    if output.ndim == 4:
        channels, side = output.shape[1], output.shape[2]
        output = adaptive_avg_pool2d(output.float(), min(side, max(1, round(math.sqrt(WANTED_FEATURES / channels)))))
    return output.float().flatten(1)


class Batch(NamedTuple):
    """Images of one step, on the device."""

    features: Mapping[str, Tensor]  # (B, D) of each layer
    labels: Tensor  # (B,) int64


class LayerBatches:
    """Renders images, and computes the features of the network's layers, in every epoch."""

    def __init__(
        self, settings: LayersSettings, source: FeatureSource, forward: LayersForward, advance: Callable[[int], None]
    ) -> None:
        self._settings, self._forward, self._advance = settings, forward, advance
        self._renderer = source.renderer
        self._size, self._resize = source.sizes
        self._squash = source.squash
        self._interpolation = source.network.preprocessing.interpolation
        self._precision = choose_precision(settings.precision, self._renderer.device)

    def of_epoch(self, index: ImageIndex, epoch: int) -> Iterator[Batch]:
        """Yield the images with the windows and in the order of an epoch."""
        samples, seed = index.samples, self._settings.seed
        parameters = window_parameters(samples.image_size, self._resize, self._size, seed, epoch, self._squash)
        return self._batches(index, epoch_order(np.flatnonzero(samples.good), seed, epoch), parameters)

    def of_evaluation_view(self, index: ImageIndex) -> Iterator[Batch]:
        """Yield view 0 of the images."""
        parameters = evaluation_parameters(index.samples.image_size, self._resize, self._size, self._squash)
        return self._batches(index, np.flatnonzero(index.samples.good), parameters)

    def _batches(
        self, index: ImageIndex, rows: npt.NDArray[np.int64], parameters: npt.NDArray[np.float32]
    ) -> Iterator[Batch]:
        samples, images = index.samples, self._settings.classifier_batch_size
        views, sizes = parameters[rows][:, None], (self._size,)
        job = RenderJob.of(
            index.source, samples, rows, parameters=views, sizes=sizes, interpolation=self._interpolation
        )
        labels = torch.from_numpy(samples.label[rows]).to(self._renderer.device, torch.int64)
        for here, (pixels,) in zip(job.batches(images), render(self._renderer, job, images), strict=True):
            with torch.no_grad(), autocast(pixels.device, self._precision):
                parts = [self._forward(part) for part in torch.split(pixels, self._settings.batch_size)]
            yield Batch({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, labels[here])
            self._advance(len(pixels))


def window_parameters(
    image_size: npt.NDArray[np.int32], resize: int, size: int, seed: int, epoch: int, squash: bool = False
) -> npt.NDArray[np.float32]:
    """Draw random windows of ``size`` pixels, flipped or not, of the centre square resized to ``resize`` pixels.

    ``image_size`` (N, 2) has height and width in pixels; the parameters are (N, P). With ``squash`` the whole image is
    resized to that square.
    """
    draws = uniform_draws(seed, epoch, np.arange(len(image_size)))
    parameters = evaluation_parameters(image_size, resize, resize, squash)
    for number, column in enumerate(("window_left", "window_top")):
        parameters[:, COLUMN[column]] += np.floor(draws[:, number] * (resize - size + 1))
    parameters[:, COLUMN["flip"]] = draws[:, 2] < 0.5
    return parameters
