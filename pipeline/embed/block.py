"""Doing one block: render its images, run them through the network, give back what is to be written.

This is the unit that any number of workers can compute: it needs the open store, the images and the network.

Letters: R rows of the block, V views asked for, P parameters, D features, B batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn.functional import normalize

from compress_ssl.pipeline.common.device import autocast, choose_precision, prepare_device
from compress_ssl.pipeline.images.policies import draw_parameters
from compress_ssl.pipeline.images.renderers.make import make_renderer
from compress_ssl.pipeline.images.rendering import RenderJob, interpolation_of, render
from compress_ssl.pipeline.networks.network import load_network
from compress_ssl.storage.schema import EVALUATION_VIEW

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from torch import Tensor

    from compress_ssl.pipeline.common.settings import Precision
    from compress_ssl.pipeline.embed.settings import EmbedSettings
    from compress_ssl.pipeline.images.rendering import Renderer
    from compress_ssl.pipeline.images.sources.source import ImageSource
    from compress_ssl.pipeline.networks.network import Network
    from compress_ssl.storage import EmbeddingStore, Split
    from compress_ssl.storage.writer import StoreWriter


class Block(NamedTuple):
    """Some consecutive samples of a split, and the views of them that are still to be computed."""

    split: str
    number: int
    views: tuple[int, ...]

    def __str__(self) -> str:
        """Say which block it is."""
        return f"Block {self.number} of split {self.split}"


class EmbeddedView(NamedTuple):
    """One view of one block, as it is written."""

    embeddings: npt.NDArray[np.float32]
    """(R, D); NaN in the rows of bad images."""
    augmentation: npt.NDArray[np.float32]
    """(R, P)"""


class Embedder(NamedTuple):
    """What a process holds to do blocks: loaded once."""

    network: Network
    renderer: Renderer
    batch_size: int
    precision: Precision
    normalise: bool = False
    """Whether embeddings are L2-normalised before they are kept."""


def load_worker(settings: EmbedSettings) -> Embedder:
    """Load the network onto its device, and the renderer.

    Raises
    ------
    InputError
        If there is no such network or device.
    """
    device = prepare_device(settings.device, settings.thread_count)
    network = load_network(settings.teacher, settings.seed)
    network.module.eval().to(device).to(memory_format=torch.channels_last)
    renderer = make_renderer(settings.renderer, device, settings.thread_count)
    precision = choose_precision(settings.precision, device)
    return Embedder(network, renderer, settings.batch_size, precision, settings.normalise)


def good_images(store: EmbeddingStore, block: Block) -> int:
    """How many images of a block there are to embed."""
    split = store[block.split]
    return int(split.samples.good[split.block_slice(block.number)].sum())


def embed_block(
    worker: Embedder,
    split: Split,
    source: ImageSource,
    block: Block,
    advance: Callable[[int], None],
    on_pixels: Callable[[str, int, int, Tensor], None] | None = None,
) -> dict[int, EmbeddedView]:
    """Compute the embeddings of one block.

    Parameters
    ----------
    worker : Worker
    split : Split
        Tells the block's samples and views.
    source : ImageSource
        Has the split's images.
    block : Block
    advance : callable
        Told how many views each batch has finished.
    on_pixels : callable, optional
        Called with (split, view, row in the split, uint8 pixels (S, S, 3)) of every view rendered.

    Returns
    -------
    views : dict from view number to EmbeddedView
    """
    rows, samples = split.block_slice(block.number), split.samples
    image_size = samples.image_size[rows]
    good = np.flatnonzero(samples.good[rows])  # within the block
    drawn = {view: draw_parameters(view, split.views[view], rows.start, image_size) for view in block.views}
    results = {
        view: EmbeddedView(np.full((len(image_size), split.feature_dim), np.nan, np.float32), parameters)
        for view, parameters in drawn.items()
    }
    job = RenderJob.of(
        source,
        samples,
        rows.start + good,
        parameters=np.stack([drawn[view][good] for view in block.views], axis=1),
        sizes=tuple(int(split.views[view]["size"]) for view in block.views),
        interpolation=interpolation_of(split.views[EVALUATION_VIEW]),
    )
    for batch, rendered in zip(
        job.batches(worker.batch_size), render(worker.renderer, job, worker.batch_size), strict=True
    ):
        for view, pixels in zip(block.views, rendered, strict=True):
            results[view].embeddings[good[batch]] = embed_images(worker, pixels)
            if on_pixels is not None:
                for row, image in zip(good[batch], pixels, strict=True):
                    on_pixels(block.split, view, rows.start + int(row), image)
            advance(len(pixels))
    return results


def write_views(writer: StoreWriter, block: Block, embedded: dict[int, EmbeddedView]) -> None:
    """Write a block's views, each with its commit record."""
    for view, (embeddings, augmentation) in embedded.items():
        writer.write_block(block.split, block.number, view, embeddings, augmentation)


@torch.inference_mode()
def embed_images(worker: Embedder, pixels: Tensor) -> npt.NDArray[np.float32]:
    """Embeddings (B, D) of uint8 images (B, S, S, 3)."""
    with autocast(pixels.device, worker.precision):
        features = worker.network.features(pixels)
    single = features.float()
    return (normalize(single, dim=1, eps=torch.finfo(torch.float32).tiny) if worker.normalise else single).cpu().numpy()
