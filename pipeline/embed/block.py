"""Blocks: render their images, run the network on them, return the arrays to be written.

A block is the unit that any process can compute: it needs the open store, the images and the network.

Letters: R rows of the block, V views asked for, P parameters, D features, B batch, S side in pixels; G side of the grid
of patches, K components of a patch.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby, tee
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compress_ssl.pipeline.common.settings import Precision
from compress_ssl.pipeline.embed.embedder import Embedder, HostRows, embed_images, embed_with_map
from compress_ssl.pipeline.embed.patch_projection import PatchProjection
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.embed.verify.settings import VerifySettings
from compress_ssl.pipeline.images.mixing import draw_view
from compress_ssl.pipeline.images.parameters import draw_parameters
from compress_ssl.pipeline.images.rendering import RenderJob, render_batches
from compress_ssl.pipeline.images.sources.source import ImageSource
from compress_ssl.storage import EmbeddingStore, Split, SplitPlan
from compress_ssl.storage.patches import Patches, quantise
from compress_ssl.storage.places.parallel import map_threads
from compress_ssl.storage.schema import EVALUATION_VIEW
from compress_ssl.storage.writer import StoreWriter

Sources = Mapping[str, ImageSource]  # by split name
Advance = Callable[[int], None]  # called with the number of views done since its last call
OnPixels = Callable[[str, int, int, Tensor], None]
"""Called with split, view, row in the split and uint8 pixels (S, S, 3)."""

BATCHES_AHEAD = {"cpu": 0, "cuda": 1}
"""Batches started on a device before the embeddings of an earlier one are taken."""

WRITES_AT_ONCE = 4  # views of a block: each waits several times for the disk, or for the server


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
    patches: Patches | None  # codes (R, G * G, K) and scale (R, G * G)


class ComputeInfo(NamedTuple):
    """Device, precision and thread count of each process, as the store records them."""

    device_kind: str
    precision: Precision
    threads: int


def full_memory_message(settings: EmbedSettings | VerifySettings, device: str) -> str:
    """Return what to say if memory runs out while images are rendered and embedded on a device of this kind."""
    return (
        f"The memory was full for '{settings.teacher}' at --batch-size {settings.batch_size} on {device}; lower "
        "--batch-size, or end other programs."
    )


def good_images(store: EmbeddingStore, block: Block) -> int:
    """Count the images of a block that can be embedded."""
    split = store[block.split]
    return int(split.samples.good[split.block_slice(block.number)].sum())


def embed_blocks(
    embedder: Embedder,
    store: EmbeddingStore,
    sources: Sources,
    blocks: Iterable[Block],
    advance: Advance,
    on_pixels: OnPixels | None = None,
) -> Iterator[tuple[Block, dict[int, EmbeddedView]]]:
    """Compute the embeddings of blocks, in order; yield each block with its embeddings, by view number.

    A batch ends with its block, so that its embeddings do not depend on the blocks before. Blocks of a split and the
    same views are nevertheless one stream: images of the next blocks are read and decoded meanwhile.

    Args:
        sources: The images of each split.
        blocks: Taken some batches ahead of what is yielded.
        advance: Called after each batch.
        on_pixels: Called with every view rendered.
    """
    for (name, views), alike in groupby(blocks, key=lambda block: (block.split, block.views)):
        split, source = store[name], sources[name]
        works = (_Work.of(block, split, source) for block in alike)
        projection = PatchProjection.of(split, embedder.renderer.device)
        embedded: dict[int, EmbeddedView] = {}
        for work, batch, computed in _taken_later(
            _compute(embedder, works, projection, on_pixels), embedder.renderer.device
        ):
            if batch.start == 0:
                embedded = {view: work.empty(view, split) for view in views}
            for view, (rows, patches) in zip(views, computed, strict=False):  # none for a block without a good image
                embedded[view].embeddings[work.good[batch]] = rows.get()
                if (held := embedded[view].patches) is not None and patches is not None:
                    codes, scale = held
                    codes[work.good[batch]], scale[work.good[batch]] = quantise(patches.get())
                advance(len(rows.rows))
            if batch.stop == len(work.good):
                yield work.block, embedded


class _Work(NamedTuple):
    """A block, and what to render of it."""

    block: Block
    first: int  # row in the split
    good: npt.NDArray[np.intp]  # rows of good images within the block
    parameters: dict[int, npt.NDArray[np.float32]]  # (R, P) by view
    job: RenderJob  # of the good images
    patch_views: tuple[int, ...]  # views with patches

    @classmethod
    def of(cls, block: Block, split: Split, source: ImageSource) -> Self:
        rows, samples = split.block_slice(block.number), split.samples
        good = np.flatnonzero(samples.good[rows])
        drawn = {view: draw_view(split, view, np.arange(rows.start, rows.stop)) for view in block.views}
        job = render_job(split, source, rows.start + good, {view: drawn[view][good] for view in block.views})
        return cls(block, rows.start, good, drawn, job, split.patches.views if split.patches else ())

    def empty(self, view: int, split: Split) -> EmbeddedView:
        parameters, patches = self.parameters[view], None
        if split.patches and view in self.patch_views:
            shape = (len(parameters), split.patches.positions, split.patches.components)
            patches = np.zeros(shape, np.int8), np.full(shape[:2], np.nan, np.float16)
        return EmbeddedView(np.full((len(parameters), split.feature_dim), np.nan, np.float32), parameters, patches)


def render_job(
    split: Split | SplitPlan,
    source: ImageSource,
    rows: npt.NDArray[np.integer],
    parameters: Mapping[int, npt.NDArray[np.float32]],
) -> RenderJob:
    """Return the job of rendering some views of N rows of a split, whose parameters (N, P) were drawn, by view."""
    numbers = list(parameters)

    def second(views: slice, _images: npt.NDArray[np.intp], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        sides = split.samples.image_size[rows]
        return np.stack([draw_parameters(view, split.views[view], rows, sides) for view in numbers[views]], axis=1)

    return RenderJob.of(
        source,
        split.samples,
        rows,
        parameters=np.stack(list(parameters.values()), axis=1),
        sizes=tuple(int(split.views[view]["size"]) for view in numbers),
        view=split.views[EVALUATION_VIEW],
        second=second,
    )


Computed = tuple[_Work, slice, list[tuple[HostRows, HostRows | None]]]
"""A batch of a block's good images, and by view its embeddings, and its patches (B, G * G, K) if the view has some."""


def _compute(
    embedder: Embedder, works: Iterable[_Work], projection: PatchProjection | None, on_pixels: OnPixels | None
) -> Iterator[Computed]:
    """Render and embed blocks of the same split and views, batch by batch."""
    works, ahead = tee(works)
    size = embedder.batch_size
    batches = (work.job.part(rows) for work in ahead for rows in work.job.batches(size))
    rendered = render_batches(embedder.renderer, batches, size)
    for work in works:
        for rows in work.job.batches(size) or [slice(0, 0)]:
            pixels = next(rendered) if rows.stop else []
            if on_pixels is not None:
                for view, images in zip(work.block.views, pixels, strict=False):
                    for row, image in zip(work.good[rows], images, strict=True):
                        on_pixels(work.block.split, view, work.first + int(row), image)
            yield (
                work,
                rows,
                [
                    _embed(embedder, images, projection if view in work.patch_views else None)
                    for view, images in zip(work.block.views, pixels, strict=False)
                ],
            )
    next(rendered, None)  # to its end, so that the renderer can use its pipeline again


def _embed(embedder: Embedder, images: Tensor, projection: PatchProjection | None) -> tuple[HostRows, HostRows | None]:
    if projection is None:
        return embed_images(embedder, images), None
    embeddings, feature_map = embed_with_map(embedder, images)
    return embeddings, HostRows.of(projection(feature_map))


def _taken_later(batches: Iterator[Computed], device: torch.device) -> Iterator[Computed]:
    """Yield each batch after ``BATCHES_AHEAD`` more have been started, so that a GPU is not idle meanwhile."""
    waiting: deque[Computed] = deque()
    for batch in batches:
        waiting.append(batch)
        if len(waiting) > BATCHES_AHEAD[device.type]:
            yield waiting.popleft()
    yield from waiting


def write_views(writer: StoreWriter, block: Block, embedded: dict[int, EmbeddedView]) -> None:
    """Write a block's views and their patches, each with its commit record, some side by side."""

    def write(view: int) -> None:
        embeddings, augmentation, patches = embedded[view]
        writer.write_block(block.split, block.number, view, embeddings, augmentation)
        if patches is not None:
            writer.write_patches(block.split, block.number, view, *patches)

    list(map_threads(write, embedded, threads=WRITES_AT_ONCE))
