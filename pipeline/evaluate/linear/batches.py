"""Training batches of a linear classifier: features of stored views, or of views rendered during training.

Both yield the same epochs: epoch e has every image once, in an order drawn from (seed, e), with a shorter last step.
The view rendered in epoch e is the one that a store of the same seed keeps as view 1 + e: a store with as many views as
epochs trains the same classifier, up to rounding.

Letters: N images, D features, V stored views, B images of a step.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compress_ssl.pipeline.common.device import autocast
from compress_ssl.pipeline.common.settings import Precision
from compress_ssl.pipeline.evaluate.settings import LinearTraining
from compress_ssl.pipeline.images.parameters import fresh_parameters
from compress_ssl.pipeline.images.rendering import Renderer, RenderJob, render
from compress_ssl.pipeline.images.sources.source import ImageSource
from compress_ssl.pipeline.networks.network import Network
from compress_ssl.pipeline.training.distributed import gather_ragged, local_batch_size, rank_indices
from compress_ssl.pipeline.training.schedule import epoch_order
from compress_ssl.storage import Split
from compress_ssl.storage.schema import EVALUATION_VIEW


class Batch(NamedTuple):
    """Images of one step, on the device."""

    features: Tensor  # (B, D), as the network outputs them
    labels: Tensor  # (B,) int64


Rows = npt.NDArray[np.int64]
Epochs = Iterator[Iterator[Batch]]
Device = torch.device | str
Advance = Callable[[int], None]  # told how many images were yielded

FIRST_VIEW = EVALUATION_VIEW + 1


@dataclass(frozen=True)
class StoredViews:
    """Features of N images in V stored views, one of which is in memory at a time."""

    read: Callable[[int], npt.NDArray[np.floating]]  # returns the features (N, D) of a view
    count: int  # V
    labels: npt.NDArray[np.integer]  # (N,)

    def epochs(self, rows: Rows, first: int, settings: LinearTraining, device: Device, advance: Advance) -> Epochs:
        """Yield the epochs over some of the images from epoch ``first`` on; epoch e reads view 1 + (e mod V)."""
        loaded, features = EVALUATION_VIEW, torch.empty(0)
        for epoch in range(first, settings.epochs):
            view = FIRST_VIEW + epoch % self.count
            if view != loaded:
                features = torch.empty(0)  # free the last view before the next one is read
                loaded, features = view, _placed(torch.from_numpy(self.read(view)), device)
            order = epoch_order(rows, settings.seed, epoch)
            yield self._batches(features, order, settings.classifier_batch_size, device, advance)

    def _batches(self, features: Tensor, order: Rows, size: int, device: Device, advance: Advance) -> Iterator[Batch]:
        labels = torch.from_numpy(self.labels).to(features.device, torch.int64)
        for rows in torch.split(torch.from_numpy(order).to(features.device), size):
            yield Batch(features[rows].to(device), labels[rows].to(device))
            advance(len(rows))


def _placed(features: Tensor, device: Device) -> Tensor:
    """Move features to the device unless they take more than half of a GPU's free memory."""
    if torch.device(device).type == "cuda":
        cached_by_torch = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        if 2 * features.nbytes > torch.cuda.mem_get_info(device)[0] + cached_by_torch:
            return features
    return features.to(device)


@dataclass(frozen=True)
class LiveViews:
    """N images that are rendered in a new random view, and go through the network, in every epoch.

    Each rank computes its part of every step's images, and receives the features of all.
    """

    split: Split  # of a store with view 0 of the same images, at the size to render
    source: ImageSource
    network: Network  # on the device of the renderer, in evaluation mode
    renderer: Renderer
    precision: Precision

    @property
    def labels(self) -> npt.NDArray[np.integer]:
        """Class numbers (N,)."""
        return self.split.samples.label[self.split.samples.good]

    def epochs(self, rows: Rows, first: int, settings: LinearTraining, device: Device, advance: Advance) -> Epochs:
        """Yield the epochs over some of the images from epoch ``first`` on."""
        labels = torch.from_numpy(self.labels).to(device, torch.int64)
        for epoch in range(first, settings.epochs):
            yield self._batches(epoch_order(rows, settings.seed, epoch), FIRST_VIEW + epoch, labels, settings, advance)

    def _batches(
        self, order: Rows, view: int, labels: Tensor, settings: LinearTraining, advance: Advance
    ) -> Iterator[Batch]:
        batch_size, device = settings.classifier_batch_size, self.renderer.device
        samples, evaluation = self.split.samples, self.split.views[EVALUATION_VIEW]
        stored = np.flatnonzero(samples.good)[rank_indices(order, batch_size)]
        size = int(evaluation["size"])
        views = fresh_parameters(settings.policy, size, settings.seed, view, samples.image_size)[stored][:, None]
        job = RenderJob.of(self.source, samples, stored, parameters=views, sizes=(size,), view=evaluation)
        rendered = render(self.renderer, job, local_batch_size(batch_size))
        for rows in torch.split(torch.from_numpy(order).to(labels.device), batch_size):
            pixels = next(rendered, [])  # a rank may have no image of a shorter last step
            parts = [part for each in pixels for part in torch.split(each, settings.batch_size)]
            features = [torch.empty(0, self.network.feature_dim, device=device)]
            with torch.inference_mode(), autocast(device, self.precision):
                features += [self.network.features(part).float() for part in parts]
            yield Batch(gather_ragged(torch.cat(features), batch_size, len(rows)), labels[rows])
            advance(len(rows))
        for _ in rendered:
            pass  # to its end: the renderer keeps its pipeline for the next epoch
