"""Nearest neighbour while a network is trained: on a bounded part of the images, kept ready between evaluations.

A trainer gets it as a function of the network. What it scores is what ``evaluate`` scores: the evaluation view for the
network's own size, k = 1, all labels; from features that have not been through a store's float16. It leaves the network,
its mode and torch's random numbers as they were.

Letters: N images, B batch, D features, S side in pixels.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from compress_ssl.pipeline.common.device import choose_precision
from compress_ssl.pipeline.common.errors import InputError, RunError
from compress_ssl.pipeline.common.rows import evenly_spaced
from compress_ssl.pipeline.common.settings import ImageSelection
from compress_ssl.pipeline.embed.block import Embedder, embed_images
from compress_ssl.pipeline.evaluate.features import check_labels
from compress_ssl.pipeline.evaluate.knn.nearest_neighbour import nearest_neighbour_accuracy
from compress_ssl.pipeline.evaluate.knn.search import nearest_neighbours
from compress_ssl.pipeline.images.data_set import index_data_set
from compress_ssl.pipeline.images.index import ImageIndex
from compress_ssl.pipeline.images.policies import evaluation_parameters
from compress_ssl.pipeline.images.rendering import RenderJob, render
from compress_ssl.pipeline.images.same_images import check_same_images
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt
    from torch import Tensor, nn

    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.common.settings import Precision
    from compress_ssl.pipeline.images.rendering import Renderer
    from compress_ssl.pipeline.networks.network import Network
    from compress_ssl.storage import Place

KEPT_PIXEL_BYTES = 2**30
"""Views that take no more than this, in bytes, are rendered once; larger ones at every evaluation."""


def make_live_evaluation(
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
    kept_pixel_bytes: int = KEPT_PIXEL_BYTES,
) -> Callable[[Network], dict[str, float]]:
    """Choose the images, and give back the function that scores a network on them.

    Parameters
    ----------
    data : Path
        The data set.
    output : Path
        The run; what is indexed is kept beside it, as by the stages, unless the selection says where.
    renderer : Renderer
    threads : int
        For indexing.
    progress : Progress
    store : Place, optional
        Store of the data set, whose splits need no indexing; a split that it does not have is a folder of the data set.
    train_split, test_split : str
        Splits whose labels are known, and that are scored.
    limit : int
        At most so many images of each, evenly spaced.
    selection : ImageSelection, optional
        Which images of a folder to take before that.
    batch_size : int
        Images in one forward pass.
    precision : Precision
        Of the network.
    kept_pixel_bytes : int
        See ``KEPT_PIXEL_BYTES``.

    Returns
    -------
    evaluate : callable
        Given a network, on its device: ``{"nn_top1_percent": x}``.

    Raises
    ------
    InputError
        If there are no such images, an image has no label, or the classes differ. When called: if an image is missing
        or has changed.
    StoreError
        If the store cannot be read.
    RunError
        When called, if the network's features are not numbers.
    """
    names = [train_split, test_split]
    indexes = _indexes(data, output, names, store, limit, selection or ImageSelection(), threads, progress)
    train, test = (_evenly_spaced(indexes[name], limit) for name in names)
    check_labels(train_split, train.samples.label)
    check_labels(test_split, test.samples.label)
    if train.samples.class_names != test.samples.class_names:
        raise InputError(
            f"Splits {train_split} and {test_split} have different classes; both need the same class folders to be "
            "scored while training."
        )
    kept: dict[tuple[int, int, str], list[Tensor]] = {}

    def evaluate(network: Network) -> dict[str, float]:
        worker = Embedder(network, renderer, batch_size, choose_precision(precision, renderer.device))
        wants = network.preprocessing
        wanted = wants.size, wants.resize, wants.interpolation
        count = len(train.samples) + len(test.samples)
        pixels = kept.get(wanted) or _rendered(worker, (train, test))
        if wanted not in kept and 3 * count * wants.size**2 <= kept_pixel_bytes:
            kept[wanted] = pixels = [batch.cpu() for batch in pixels]
        with _evaluation_mode(network.module):
            features = np.concatenate([embed_images(worker, batch.to(renderer.device)) for batch in pixels])  # (N, D)
        if not np.isfinite(features).all():
            raise RunError("The features of the evaluation view are not numbers; lower --learning-rate.")
        first, second = np.split(features, [len(train.samples)])
        found = nearest_neighbours(first, second, 1, devices=[renderer.device])
        result = nearest_neighbour_accuracy(found, train.samples.label, test.samples.label)
        return {"nn_top1_percent": result.top1_percent}

    return evaluate


def _indexes(
    data: Path,
    output: Path,
    names: list[str],
    store: Place | None,
    limit: int,
    selection: ImageSelection,
    threads: int,
    progress: Progress,
) -> dict[str, ImageIndex]:
    """Index of each split: the store's own, or that of the folder, of which no more is looked at than is needed."""
    found = {}
    if store is not None:
        opened = open_store(store)
        for name in set(names).intersection(opened.split_names):
            source = open_source(data, opened[name].folder, selection.index_folder or output.parent / "index")
            check_same_images(opened[name], source, "sample", threads, progress)
            found[name] = ImageIndex(source, opened[name].samples)
    missing = [name for name in dict.fromkeys(names) if name not in found]
    few = selection.model_copy(update={"limit": min(limit, selection.limit or limit)})
    return found | index_data_set(data, missing, output, few, threads=threads, progress=progress)


def _evenly_spaced(index: ImageIndex, limit: int) -> ImageIndex:
    rows = evenly_spaced(np.flatnonzero(index.samples.good), limit)
    return ImageIndex(index.source, index.samples.take(rows))


def _rendered(worker: Embedder, indexes: tuple[ImageIndex, ...]) -> Iterator[Tensor]:
    """Batches uint8 (B, S, S, 3) of the evaluation view of all images."""
    wants = worker.network.preprocessing
    for index in indexes:
        samples = index.samples
        parameters: npt.NDArray[np.float32] = evaluation_parameters(samples.image_size, wants.resize, wants.size)
        job = RenderJob.of(
            index.source,
            samples,
            np.arange(len(samples)),
            parameters=parameters[:, None],
            sizes=(wants.size,),
            interpolation=wants.interpolation,
        )
        for (pixels,) in render(worker.renderer, job, worker.batch_size):
            yield pixels


@contextlib.contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every layer goes back to the mode that was its own."""
    training = [layer for layer in module.modules() if layer.training]
    module.eval()
    try:
        yield
    finally:
        for layer in training:
            layer.training = True
