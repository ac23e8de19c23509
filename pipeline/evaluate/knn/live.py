"""Nearest-neighbour score of a network in training, on a limited number of images that are prepared once.

The score equals that of ``evaluate knn``: the evaluation view at the network's own size, k = 1, all labels; but the
features are not rounded to a store's float16. The network, its mode and torch's random state are left unchanged.

Letters: N images, B batch, D features, S side in pixels.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from compress_ssl.pipeline.common.device import choose_precision
from compress_ssl.pipeline.common.errors import InputError, RunError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.rows import evenly_spaced
from compress_ssl.pipeline.common.settings import ImageSelection, Precision
from compress_ssl.pipeline.embed.embedder import Embedder, embed_images
from compress_ssl.pipeline.evaluate.features import check_labels
from compress_ssl.pipeline.evaluate.knn.accuracy import nearest_neighbour_accuracy
from compress_ssl.pipeline.evaluate.knn.search import nearest_neighbours
from compress_ssl.pipeline.images.data_set import index_data_set
from compress_ssl.pipeline.images.index import ImageIndex
from compress_ssl.pipeline.images.parameters import evaluation_parameters
from compress_ssl.pipeline.images.rendering import Renderer, RenderJob, render
from compress_ssl.pipeline.images.same_images import check_same_images
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.networks.network import Network
from compress_ssl.storage import Place, open_store

CACHED_PIXEL_BYTES = 2**30
"""Views of at most this size in total, in bytes, are rendered once; larger ones at every evaluation."""


class LiveNearestNeighbour:
    """Scores networks by nearest neighbour on images that are selected once.

    Args:
        data: The dataset.
        output: The run; the image index is kept beside it, as by the stages, unless ``selection`` names a folder.
        store: Store of the dataset, whose splits need no indexing; a split that it lacks is a folder of the dataset.
        train_split, test_split: Splits whose labels are known, and that are scored.
        limit: Maximum number of images of each, evenly spaced.
        selection: Images of a folder to choose from.
        batch_size: Images in one forward pass.
        cached_pixel_bytes: See ``CACHED_PIXEL_BYTES``.

    Raises:
        InputError: If there are no such images, an image has no label, or the classes differ. When called: if an image
            is missing or has changed.
        StoreError: If the store cannot be read.
        RunError: When called, if the network's features are not finite.
    """

    def __init__(
        self,
        data: Path,
        output: Path,
        *,
        renderer: Renderer,
        threads: int,
        progress: Progress,
        store: Place | None = None,
        train_split: str = "train",
        test_split: str = "val",
        limit: int = 2000,
        selection: ImageSelection | None = None,
        batch_size: int = 128,
        precision: Precision = "auto",
        cached_pixel_bytes: int = CACHED_PIXEL_BYTES,
    ) -> None:
        self._renderer, self._batch_size, self._cached_pixel_bytes = renderer, batch_size, cached_pixel_bytes
        self._precision = choose_precision(precision, renderer.device)
        selection = selection or ImageSelection()
        indexes: dict[str, ImageIndex] = {}
        splits = dict.fromkeys([train_split, test_split])
        if store is not None:
            opened = open_store(store)
            for name in splits.keys() & opened.split_names:
                source = open_source(data, opened[name].folder, selection.index_folder or output.parent / "index")
                check_same_images(opened[name], source, "sample", threads, progress)
                indexes[name] = ImageIndex(source, opened[name].samples)
        few = selection.model_copy(update={"limit": min(limit, selection.limit or limit)})
        if missing := [name for name in splits if name not in indexes]:
            indexes |= index_data_set(data, missing, output, few, threads=threads, progress=progress)
        chosen = []
        for name in (train_split, test_split):
            samples = indexes[name].samples
            samples = samples.take(evenly_spaced(np.flatnonzero(samples.good), limit))
            check_labels(name, samples.label)
            chosen.append(ImageIndex(indexes[name].source, samples))
        self._train, self._test = chosen
        if self._train.samples.class_names != self._test.samples.class_names:
            raise InputError(
                f"Splits {train_split} and {test_split} have different classes; both need the same class folders to be "
                "scored while training."
            )
        self._cache: dict[tuple[int, int, str, bool], list[Tensor]] = {}

    def __call__(self, network: Network) -> dict[str, float]:
        """Return ``{"nn_top1_percent": x}`` of a network that is on its device."""
        embedder = Embedder(network, self._renderer, self._batch_size, self._precision)
        training = [layer for layer in network.module.modules() if layer.training]
        network.module.eval()
        try:
            blocks = [embed_images(embedder, batch.to(self._renderer.device)).get() for batch in self._pixels(network)]
        finally:  # every layer returns to its own previous mode
            for layer in training:
                layer.training = True
        features = np.concatenate(blocks)  # (N, D)
        if not np.isfinite(features).all():
            raise RunError("The features of the evaluation view are not finite; lower --learning-rate.")
        train, test = np.split(features, [len(self._train.samples)])
        found = nearest_neighbours(train, test, 1, device=self._renderer.device)
        result = nearest_neighbour_accuracy(found, self._train.samples.label, self._test.samples.label)
        return {"nn_top1_percent": result.top1_percent}

    def _pixels(self, network: Network) -> list[Tensor] | Iterator[Tensor]:
        """Return batches (B, S, S, 3) of all images, from the cache if they fit in it."""
        preprocessing = network.preprocessing
        key = preprocessing.size, preprocessing.resize, preprocessing.interpolation, preprocessing.squash
        count = len(self._train.samples) + len(self._test.samples)
        if key not in self._cache:
            rendered = self._render(network)
            if 3 * count * preprocessing.size**2 > self._cached_pixel_bytes:
                return rendered
            self._cache[key] = [batch.cpu() for batch in rendered]
        return self._cache[key]

    def _render(self, network: Network) -> Iterator[Tensor]:
        """Yield batches uint8 (B, S, S, 3) of the evaluation view of all images."""
        seen = network.preprocessing
        for index in (self._train, self._test):
            source, samples, rows = index.source, index.samples, np.arange(len(index.samples))
            views = evaluation_parameters(samples.image_size, seen.resize, seen.size, seen.squash)[:, None]
            job = RenderJob.of(
                source, samples, rows, parameters=views, sizes=(seen.size,), interpolation=seen.interpolation
            )
            for (pixels,) in render(self._renderer, job, self._batch_size):
                yield pixels
