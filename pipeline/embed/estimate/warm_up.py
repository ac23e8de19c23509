"""A short timed run: a few blocks of every split are rendered, embedded and written.

They go to a temporary store beside the store's place. Batches, threads and code are those of ``embed``; the first block
of each split, in which caches and the allocator fill, counts as start-up if there is time for a second one.

A cost is an array (2,) of seconds: of wall-clock time, which other processes lengthen, and of CPU time over all threads
of this process, which they hardly do.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from compress_ssl.pipeline.common.rows import evenly_spaced
from compress_ssl.pipeline.embed.block import Block, Embedder, embed_images, good_images
from compress_ssl.pipeline.embed.checks.canaries import plan_canaries
from compress_ssl.pipeline.embed.executor import Executor
from compress_ssl.pipeline.embed.plan import EmbedPlan, missing_blocks
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.storage import Place, SplitPlan
from compress_ssl.storage.tools.size import StoreSize
from compress_ssl.storage.writer import StoreWriter, consolidate, create_store

Cost = npt.NDArray[np.float64]

SECONDS = 20.0  # time limit per split; a block that has been started is finished
MAX_BLOCKS = 64
REPEATS = 3


class WarmUp(NamedTuple):
    """Measurements of a timed run."""

    per_image: dict[str, Cost]  # by split: reading, rendering, embedding and writing one image in all its views
    start: Cost  # Canaries, the empty store, and what first blocks take longer
    forward_seconds: float  # the teacher's forward pass alone, per view
    read_bytes_per_second: float  # of embeddings, from the disk or server
    metadata: StoreSize  # the ``zarr.json`` files of the whole store
    images: int  # number of images embedded


def clock() -> Cost:
    """Read wall clock and CPU clock."""
    return np.array([time.perf_counter(), time.process_time()])


def warm_up(settings: EmbedSettings, plan: EmbedPlan, executor: Executor) -> WarmUp:
    """Embed a few blocks of every split, and time it.

    Raises:
        InputError: If an image is missing or has changed.
        RunError: If rendering fails.
    """
    splits = {name: _few_blocks(split, settings.batch_size) for name, split in plan.splits.items()}
    indexes = {name: replace(plan.indexes[name], samples=split.samples) for name, split in splits.items()}
    with settings.store.scratch() as place:
        begin = clock()
        canaries = executor.call(plan_canaries, EmbedPlan(plan.attributes, indexes, splits))
        create_store(place, plan.attributes | {"canaries": canaries}, splits)
        start = clock() - begin
        consolidate(place)
        files: list[Place] = [place / "zarr.json", *place.glob("*/zarr.json"), *place.glob("*/*/zarr.json")]
        metadata = StoreSize(sum(file.size() for file in files), len(files))
        writer = StoreWriter(place)
        sources = {name: index.source for name, index in indexes.items()}
        blocks, images, per_image = missing_blocks(writer), 0, {}
        for name in splits:
            of_split = [block for block in blocks if block.split == name]
            per_image[name], first_block, count = _time_blocks(executor, writer, sources, of_split)
            start, images = start + first_block, images + count
        return WarmUp(per_image, start, executor.call(_forward_seconds, settings), _read_rate(place), metadata, images)


def _few_blocks(split: SplitPlan, batch_size: int) -> SplitPlan:
    """Plan a few blocks of evenly spaced images, each of at most one batch."""
    block_rows = min(split.block_rows, batch_size)
    rows = evenly_spaced(np.arange(len(split.samples)), MAX_BLOCKS * block_rows)
    return replace(split, samples=split.samples.take(rows), block_rows=block_rows)


def _time_blocks(executor: Executor, writer: StoreWriter, sources: Any, blocks: list[Block]) -> tuple[Cost, Cost, int]:
    """Embed blocks; return the cost per image, what the first block cost above that, and the number of images."""
    started: list[Cost] = []
    images: list[int] = []

    def until_time_is_up() -> Iterator[Block]:
        for block in blocks:
            if len(started) > 1 and clock()[0] - started[0][0] > SECONDS:
                return
            images.append(good_images(writer.store, block))
            started.append(clock())
            yield block

    executor.embed_blocks(writer, sources, until_time_is_up(), lambda views: None)
    end, first = clock(), 1 if any(images[1:]) else 0
    per_image = (end - started[first]) / max(1, sum(images[first:]))
    first_block = started[first] - started[0] - sum(images[:first]) * per_image
    return per_image, np.maximum(first_block, 0), sum(images)


def _forward_seconds(embedder: Embedder, settings: EmbedSettings) -> float:
    """Seconds of the teacher's forward pass per view: the best of a few batches."""
    size = settings.size or embedder.network.preprocessing.size
    count = min(32, embedder.batch_size)
    pixels = torch.zeros((count, size, size, 3), dtype=torch.uint8, device=embedder.renderer.device)
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        embed_images(embedder, pixels)  # synchronous: its result is on the host
        seconds.append(time.perf_counter() - begin)
    return min(seconds) / count


def _read_rate(place: Place) -> float:
    """Bytes per second at which embeddings are read back, from the disk instead of the page cache."""
    chunks: list[Place] = [*place.glob("*/embeddings/c/*/*/0")]
    for chunk in chunks:
        if chunk.is_local:
            with open(str(chunk), "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begin = time.perf_counter()
    count = sum(len(chunk.read_bytes()) for chunk in chunks)
    return count / (time.perf_counter() - begin)
