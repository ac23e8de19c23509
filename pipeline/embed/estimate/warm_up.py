"""A short real run: a few blocks of every split are rendered, embedded and written to the disk that the store will be on.

They go into a store of their own, in a folder beside the store's place, which is removed. What is timed is what ``embed``
does: the same blocks, batches and threads. The first block of each split, in which caches and the allocator fill, is left
out where there is time for two.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from compress_ssl.pipeline.common.rows import evenly_spaced
from compress_ssl.pipeline.embed.block import Embedder, embed_images, good_images
from compress_ssl.pipeline.embed.checks.canaries import plan_canaries
from compress_ssl.pipeline.embed.estimate.cost import Cost, now, since
from compress_ssl.pipeline.embed.plan import EmbedPlan
from compress_ssl.pipeline.embed.run import plan_blocks
from compress_ssl.storage.places.remote import RemotePath
from compress_ssl.storage.tools.size import StoreSize, existing_folder
from compress_ssl.storage.writer import StoreWriter, consolidate, create_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compress_ssl.pipeline.embed.block import Block
    from compress_ssl.pipeline.embed.in_process import Executor
    from compress_ssl.pipeline.embed.settings import EmbedSettings
    from compress_ssl.storage import Place, SplitPlan

SECONDS = 20.0
"""Of blocks, for each split; a block that is begun is finished."""

MOST_BLOCKS = 64
REPEATS = 3


class Measured(NamedTuple):
    """What the warm-up found."""

    an_image: dict[str, Cost]
    """By split: an image in all its views, read, rendered, embedded, written."""
    start: Cost
    """Making the canaries and the empty store, and what first blocks take longer."""
    forward_seconds_a_view: float
    """The teacher alone, for one view."""
    read_bytes_a_second: float
    """Of embeddings, from the disk or server."""
    metadata: StoreSize
    """The ``zarr.json`` of the whole store."""
    images: int
    """That were embedded."""


class _Timed(NamedTuple):
    """Blocks of a split."""

    an_image: Cost
    warming: Cost
    """What the first block took longer."""
    images: int


def warm_up(settings: EmbedSettings, plan: EmbedPlan, workforce: Executor) -> Measured:
    """Embed a few blocks of every split, and time it.

    Raises
    ------
    InputError
        If an image is missing or has changed.
    RunError
        If rendering fails.
    """
    small = _small(plan, settings)
    sources = {name: index.source for name, index in small.indexes.items()}
    with _place_beside(settings.store) as place:
        begun = now()
        canaries = workforce.call(_canaries, small)
        create_store(place, plan.attributes | {"canaries": canaries}, small.splits)
        start = since(begun)
        metadata = _metadata(place)
        writer = StoreWriter(place)
        blocks = plan_blocks(writer)
        timed = {
            name: _time_blocks(workforce, writer, sources, [block for block in blocks if block.split == name])
            for name in small.splits
        }
        for each in timed.values():
            start = start.plus(each.warming)
        return Measured(
            an_image={name: each.an_image for name, each in timed.items()},
            start=start,
            forward_seconds_a_view=workforce.call(_time_forward, settings),
            read_bytes_a_second=_read_rate(place),
            metadata=metadata,
            images=sum(each.images for each in timed.values()),
        )


def _small(plan: EmbedPlan, settings: EmbedSettings) -> EmbedPlan:
    """The same plan for a few blocks' worth of images, evenly spaced; a block is no more than one batch there."""
    splits = {name: _few_blocks(split, settings.batch_size) for name, split in plan.splits.items()}
    indexes = {name: replace(plan.indexes[name], samples=split.samples) for name, split in splits.items()}
    return EmbedPlan(plan.attributes, indexes, splits)


def _few_blocks(split: SplitPlan, batch_size: int) -> SplitPlan:
    block_rows = min(split.block_rows, batch_size)
    rows = evenly_spaced(np.arange(len(split.samples)), MOST_BLOCKS * block_rows)
    return replace(split, samples=split.samples.take(rows), block_rows=block_rows)


def _canaries(worker: Embedder, plan: EmbedPlan) -> dict[str, list[dict[str, Any]]]:
    return plan_canaries(plan, worker.renderer)


def _time_blocks(workforce: Executor, writer: StoreWriter, sources: Any, blocks: list[Block]) -> _Timed:
    started: list[Cost] = []
    given: list[Block] = []

    def until_time_is_up() -> Iterator[Block]:
        for block in blocks:
            if len(given) > 1 and since(started[0]).wall > SECONDS:
                return
            started.append(now())
            given.append(block)
            yield block

    workforce.embed_blocks(writer, sources, until_time_is_up(), lambda amount: None)
    images = [good_images(writer.store, block) for block in given]
    first = 1 if any(images[1:]) else 0
    an_image = since(started[first]).times(1 / max(1, sum(images[first:])))
    warming = started[first].minus(started[0]).minus(an_image.times(sum(images[:first])))
    return _Timed(an_image, warming.at_least_none(), sum(images))


def _time_forward(worker: Embedder, settings: EmbedSettings) -> float:
    """Seconds that the teacher needs for one view: the best of a few batches."""
    size = settings.size or worker.network.preprocessing.size
    count = min(32, worker.batch_size)
    pixels = torch.zeros((count, size, size, 3), dtype=torch.uint8, device=worker.renderer.device)
    seconds = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        embed_images(worker, pixels)  # its result is on the host: the device is done
        seconds.append(time.perf_counter() - begun)
    return min(seconds) / count


def _metadata(place: Place) -> StoreSize:
    consolidate(place)
    files: list[Place] = [place / "zarr.json", *place.glob("*/zarr.json"), *place.glob("*/*/zarr.json")]
    return StoreSize(sum(file.stat().st_size for file in files), len(files))


def _read_rate(place: Place) -> float:
    """Bytes of embeddings a second, read back from where they were written, not from the system's memory."""
    chunks: list[Place] = [*place.glob("*/embeddings/c/*/*/0")]
    for chunk in chunks:
        _forget(chunk)
    begun = time.perf_counter()
    count = sum(len(chunk.read_bytes()) for chunk in chunks)
    return count / (time.perf_counter() - begun)


def _forget(file: Place) -> None:
    """Let the system drop what it holds in memory of a file."""
    if isinstance(file, Path):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _place_beside(store: Place) -> Iterator[Place]:
    """A place on the same disk or server, removed in the end."""
    if isinstance(store, RemotePath):
        place = store.with_name(f"{store.name}.estimate-{os.getpid()}")
        try:
            yield place
        finally:
            place.remove_tree()
        return
    with tempfile.TemporaryDirectory(prefix=".compress-ssl-estimate-", dir=existing_folder(store)) as folder:
        yield Path(folder) / store.name
