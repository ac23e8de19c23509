"""One block: render its images, run the network on them, return the arrays to be written.

A block is the unit that any process can compute: it needs the open store, the images and the network.

Letters: R rows of the block, V views asked for, P parameters, D features, B batch, S side in pixels.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize

from compress_ssl.pipeline.common.device import autocast, choose_precision, prepare_device
from compress_ssl.pipeline.common.settings import Precision
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.embed.verify.settings import VerifySettings
from compress_ssl.pipeline.images.policies import draw_parameters
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import Renderer, RenderJob, interpolation_of, render
from compress_ssl.pipeline.images.sources.source import ImageSource
from compress_ssl.pipeline.networks.network import Network, load_network
from compress_ssl.storage import EmbeddingStore, Split
from compress_ssl.storage.schema import EVALUATION_VIEW
from compress_ssl.storage.writer import StoreWriter

Sources = Mapping[str, ImageSource]  # by split name
Advance = Callable[[int], None]  # called with the number of views done since its last call


class Block(NamedTuple):
    """Consecutive samples of a split, and those of their views that are still to be computed."""

    split: str
    number: int
    views: tuple[int, ...]

    def __str__(self) -> str:
        """Name the block in messages."""
        return f"Block {self.number} of split {self.split}"


class EmbeddedView(NamedTuple):
    """One view of one block, as it is written."""

    embeddings: npt.NDArray[np.float32]  # (R, D); NaN in the rows of bad images
    augmentation: npt.NDArray[np.float32]  # (R, P)


class Embedder(NamedTuple):
    """Network and renderer on one device; each process loads them once."""

    network: Network
    renderer: Renderer
    batch_size: int
    precision: Precision
    normalise: bool = False  # true if embeddings are L2-normalised


class ComputeInfo(NamedTuple):
    """Device, precision and thread count of each process, as the store records them."""

    device_kind: str
    precision: Precision
    threads: int


def full_memory(settings: EmbedSettings | VerifySettings, device: str) -> str:
    """Return what to say if memory runs out while images are rendered and embedded on a device of this kind."""
    return (
        f"The memory was full for '{settings.teacher}' at --batch-size {settings.batch_size} on {device}; lower "
        "--batch-size, or end other programs."
    )


def load_embedder(
    teacher: str, settings: EmbedSettings | VerifySettings, precision: Precision, normalise: bool
) -> Embedder:
    """Load a network onto the device of the settings, and their renderer.

    Raises:
        InputError: If there is no such network or device.
    """
    device = prepare_device(settings.device, settings.thread_count)
    network = load_network(teacher, settings.seed)
    network.module.eval().to(device).to(memory_format=torch.channels_last)
    renderer = make_renderer(settings.renderer, device, settings.thread_count)
    return Embedder(network, renderer, settings.batch_size, choose_precision(precision, device), normalise)


def good_images(store: EmbeddingStore, block: Block) -> int:
    """Count the images of a block that can be embedded."""
    split = store[block.split]
    return int(split.samples.good[split.block_slice(block.number)].sum())


def embed_block(
    embedder: Embedder,
    split: Split,
    source: ImageSource,
    block: Block,
    advance: Advance,
    on_pixels: Callable[[str, int, int, Tensor], None] | None = None,
) -> dict[int, EmbeddedView]:
    """Compute the embeddings of one block, by view number.

    Args:
        split, source: The block's split, and its images.
        advance: Called after each batch.
        on_pixels: Called with (split, view, row in the split, uint8 pixels (S, S, 3)) of every view rendered.
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
    batches = job.batches(embedder.batch_size)
    for batch, rendered in zip(batches, render(embedder.renderer, job, embedder.batch_size), strict=True):
        for view, pixels in zip(block.views, rendered, strict=True):
            results[view].embeddings[good[batch]] = embed_images(embedder, pixels)
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
def embed_images(embedder: Embedder, pixels: Tensor) -> npt.NDArray[np.float32]:
    """Return the embeddings (B, D) of uint8 images (B, S, S, 3)."""
    with autocast(pixels.device, embedder.precision):
        features = embedder.network.features(pixels)
    features = features.float()
    if embedder.normalise:
        features = normalize(features, dim=1, eps=torch.finfo(torch.float32).tiny)
    return features.cpu().numpy()
