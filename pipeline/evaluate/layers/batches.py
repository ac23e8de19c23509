"""Training batches of the layers' classifiers: images are rendered, and go through the network, in every epoch.

Letters: N images, B images of a step, D features of a layer, P augmentation parameters.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compress_ssl.pipeline.common.device import autocast, choose_precision
from compress_ssl.pipeline.evaluate.feature_source import FeatureSource
from compress_ssl.pipeline.evaluate.layers.features import LayersForward
from compress_ssl.pipeline.evaluate.settings import LayersSettings
from compress_ssl.pipeline.images.index import ImageIndex
from compress_ssl.pipeline.images.policies import COLUMN, evaluation_parameters, uniform_draws
from compress_ssl.pipeline.images.rendering import RenderJob, render
from compress_ssl.pipeline.training.schedule import epoch_order


class Batch(NamedTuple):
    """Images of one step, on the device."""

    features: Mapping[str, Tensor]  # (B, D) of each layer
    labels: Tensor  # (B,) int64


class LayerBatches:
    """Renders images and computes the features of the network's layers."""

    def __init__(
        self, settings: LayersSettings, source: FeatureSource, forward: LayersForward, advance: Callable[[int], None]
    ) -> None:
        self._settings, self._forward, self._advance = settings, forward, advance
        self._renderer = source.renderer
        self._size, self._resize = source.sizes
        self._interpolation = source.network.preprocessing.interpolation
        self._precision = choose_precision(settings.precision, self._renderer.device)

    def of_epoch(self, index: ImageIndex, epoch: int) -> Iterator[Batch]:
        """Yield the images with the windows and in the order of an epoch."""
        samples, seed = index.samples, self._settings.seed
        parameters = window_parameters(samples.image_size, self._resize, self._size, seed, epoch)
        return self._batches(index, epoch_order(np.flatnonzero(samples.good), seed, epoch), parameters)

    def of_evaluation_view(self, index: ImageIndex) -> Iterator[Batch]:
        """Yield view 0 of the images."""
        parameters = evaluation_parameters(index.samples.image_size, self._resize, self._size)
        return self._batches(index, np.flatnonzero(index.samples.good), parameters)

    def _batches(
        self, index: ImageIndex, rows: npt.NDArray[np.int64], parameters: npt.NDArray[np.float32]
    ) -> Iterator[Batch]:
        samples, images = index.samples, self._settings.classifier_batch_size
        job = RenderJob.of(
            index.source,
            samples,
            rows,
            parameters=parameters[rows][:, None],
            sizes=(self._size,),
            interpolation=self._interpolation,
        )
        labels = torch.from_numpy(samples.label[rows]).to(self._renderer.device, torch.int64)
        for here, (pixels,) in zip(job.batches(images), render(self._renderer, job, images), strict=True):
            yield Batch(self._features(pixels), labels[here])
            self._advance(len(pixels))

    def _features(self, pixels: Tensor) -> dict[str, Tensor]:
        with torch.no_grad(), autocast(pixels.device, self._precision):
            parts = [self._forward(part) for part in torch.split(pixels, self._settings.batch_size)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def window_parameters(
    image_size: npt.NDArray[np.int32], resize: int, size: int, seed: int, epoch: int
) -> npt.NDArray[np.float32]:
    """Draw random windows of ``size`` pixels, flipped or not, of the centre square resized to ``resize`` pixels.

    ``image_size`` (N, 2) has height and width in pixels; the parameters are (N, P).
    """
    draws = uniform_draws(seed, epoch, 0, len(image_size))
    parameters = evaluation_parameters(image_size, resize, resize)
    for number, column in enumerate(("window_left", "window_top")):
        parameters[:, COLUMN[column]] += np.floor(draws[:, number] * (resize - size + 1))
    parameters[:, COLUMN["flip"]] = draws[:, 2] < 0.5
    return parameters
