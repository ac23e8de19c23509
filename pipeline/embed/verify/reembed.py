"""Embedding some images of a store again, to see that its rows come out of this teacher and these images.

The pixels are rendered from the stored parameters, by the renderer that the store names. Embeddings are compared by their
cosine: the same images, weights and renderer give 1 to rounding, on whatever device.

Letters: K images, D features.
"""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from compress_ssl.pipeline.common.device import choose_precision, prepare_device
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.embed.block import Embedder, embed_images
from compress_ssl.pipeline.images.renderers.make import make_renderer
from compress_ssl.pipeline.images.rendering import RenderJob, interpolation_of, render
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.networks.network import load_network
from compress_ssl.storage.schema import EVALUATION_VIEW

if TYPE_CHECKING:
    import numpy.typing as npt

    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.embed.verify.settings import VerifySettings
    from compress_ssl.pipeline.images.sources.source import ImageSource
    from compress_ssl.storage import EmbeddingStore, Split

LEAST_COSINE = 0.999
"""Below it a store is not what its teacher makes of its images."""

IMAGES = 64

logger = logging.getLogger(__name__)


class Agreement(NamedTuple):
    """Cosines of some stored embeddings with those computed anew."""

    split: str
    images: int
    cosine_mean: float
    cosine_least: float
    least: str
    """The view and image of the least."""

    @property
    def ok(self) -> bool:
        """Whether all of them agree."""
        return self.cosine_least >= LEAST_COSINE


class Drawn(NamedTuple):
    """An image in a view, and what the store has of it."""

    row: int
    view: int
    parameters: npt.NDArray[np.float32]
    """(P,)"""
    embedding: npt.NDArray[np.float16]
    """(D,)"""


def reembed(store: EmbeddingStore, settings: VerifySettings, progress: Progress) -> list[Agreement]:
    """Render and embed a sample of every split's images again, each in one of its complete views.

    Raises
    ------
    InputError
        If the teacher or the data cannot be used, or an image is missing or has changed.
    """
    if settings.teacher is None or settings.data is None:
        raise InputError("--teacher and --data are needed to embed images again; give both.")
    worker = _worker(store, settings.teacher, settings)
    found = []
    for name in store.split_names:
        split = store[name]
        drawn = _draw(split, settings.sample or IMAGES)
        if drawn:
            source = open_source(settings.data, split.folder)
            found.append(_compare(worker, split, source, drawn, progress))
    return found


def _worker(store: EmbeddingStore, teacher: str, settings: VerifySettings) -> Embedder:
    device = prepare_device(settings.device, settings.thread_count)
    network = load_network(teacher, settings.seed)
    network.module.eval().to(device).to(memory_format=torch.channels_last)
    made_by = store.attributes.get("teacher", {})
    for key, value in network.identity().items():
        if key in made_by and made_by[key] != value:
            logger.warning(
                "'%s' was made by a teacher with %s = %r; '%s' has %r.", store.path, key, made_by[key], teacher, value
            )
    renderer = make_renderer(
        store.attributes.get("rendering", {}).get("renderer", "dali"), device, settings.thread_count
    )
    precision = choose_precision("auto", device)
    return Embedder(network, renderer, settings.batch_size, precision, bool(made_by.get("normalised")))


def _draw(split: Split, count: int) -> list[Drawn]:
    """So many good images, each in a complete view; other ones every time. A block is read once."""
    generator = np.random.default_rng(secrets.randbits(64))
    rows, views = np.flatnonzero(split.samples.good), split.complete_views
    if not len(rows) or not views:
        return []
    chosen = np.sort(generator.choice(rows, min(count, len(rows)), replace=False))
    drawn: list[Drawn] = []
    for block in np.unique(chosen // split.block_rows).tolist():
        view, first = int(generator.choice(views)), block * split.block_rows
        stored = split.block(view, block)
        for row in chosen[chosen // split.block_rows == block].tolist():
            arrays = (stored["augmentation"][row - first], stored["embeddings"][row - first])
            drawn.append(Drawn(row, view, *arrays))
    return drawn


def _compare(worker: Embedder, split: Split, source: ImageSource, drawn: list[Drawn], progress: Progress) -> Agreement:
    again: dict[int, npt.NDArray[np.float32]] = {}
    with progress.track(f"embed {split.name} again", len(drawn)) as advance:
        for size in sorted({_size(split, each) for each in drawn}):
            numbers = [number for number, each in enumerate(drawn) if _size(split, each) == size]
            job = _job(split, source, [drawn[number] for number in numbers], size)
            batches = zip(job.batches(worker.batch_size), render(worker.renderer, job, worker.batch_size), strict=True)
            for batch, (pixels,) in batches:
                again.update(zip(numbers[batch], embed_images(worker, pixels), strict=True))
                advance(len(pixels))
    stored, anew = (
        torch.from_numpy(np.stack(rows).astype(np.float64))
        for rows in ([each.embedding for each in drawn], [again[number] for number in range(len(drawn))])
    )
    if stored.shape != anew.shape:
        raise InputError(
            f"The teacher has {anew.shape[1]} features, '{split.path}' has {stored.shape[1]}; give the teacher that made it."
        )
    cosines = cosine_similarity(stored, anew, dim=1)  # (K,)
    least = drawn[int(cosines.argmin())]
    where = f"view {least.view} of '{split.samples.sample_path[least.row]}', row {least.row}"
    return Agreement(split.name, len(drawn), float(cosines.mean()), float(cosines.min()), where)


def _size(split: Split, drawn: Drawn) -> int:
    return int(split.views[drawn.view]["size"])


def _job(split: Split, source: ImageSource, drawn: list[Drawn], size: int) -> RenderJob:
    return RenderJob.of(
        source,
        split.samples,
        np.array([each.row for each in drawn]),
        parameters=np.stack([each.parameters for each in drawn])[:, None],
        sizes=(size,),
        interpolation=interpolation_of(split.views[EVALUATION_VIEW]),
    )
