"""Estimate what ``embed`` costs: bytes and files follow from the plan, time from a short timed run.

In the timed run a few blocks of every split are rendered, embedded and written to a temporary store beside the store's
place, with the batches, threads and code of ``embed``. The extra time of the first block of each split, in which caches
and the allocator fill, counts as start-up.

A cost is an array (2,) of seconds: of wall-clock time, which other processes lengthen, and of CPU time over all threads
of this process, which they hardly do.
"""

import math
import os
import time
import timeit
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict

from compress_ssl.pipeline.common.device import prepare_device
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.rows import evenly_spaced
from compress_ssl.pipeline.common.torch_errors import explain_out_of_memory
from compress_ssl.pipeline.embed.block import Block, Sources, full_memory_message, good_images
from compress_ssl.pipeline.embed.checks.canaries import plan_canaries
from compress_ssl.pipeline.embed.embedder import Embedder, embed_images
from compress_ssl.pipeline.embed.executor import InProcess
from compress_ssl.pipeline.embed.growth import settings_of_store
from compress_ssl.pipeline.embed.plan import EmbedPlan, as_begun, missing_blocks, plan_embedding, with_renderer
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.storage import Place, open_store
from compress_ssl.storage.publish import is_there
from compress_ssl.storage.tools.size import StoreSize, samples_size, views_size
from compress_ssl.storage.writer import StoreWriter, consolidate, create_store

Cost = npt.NDArray[np.float64]

SECONDS = 20.0  # time limit per split; a block that has been started is finished
MAX_BLOCKS = 64


class WarmUp(NamedTuple):
    """Measurements of a timed run."""

    per_image: dict[str, Cost]  # by split: reading, rendering, embedding and writing one image in all its views
    start: Cost  # Canaries, the empty store, and what first blocks take longer
    forward_seconds: float  # the teacher's forward pass alone, per view
    read_bytes_per_second: float  # of embeddings, from the disk or server
    metadata: StoreSize  # the ``zarr.json`` files of the whole store
    images: int  # number of images embedded


class Estimate(BaseModel):
    """Estimate of what ``embed`` with the same settings takes."""

    model_config = ConfigDict(frozen=True)

    images: int  # without those that cannot be decoded
    views: int  # over all images; ``views_to_do`` of them are not in the store yet
    views_to_do: int
    bytes: int  # exact size of the finished store; ``bytes_to_write`` of them are missing
    bytes_to_write: int
    files: int
    disk_left: int | None  # Bytes; None at a URL
    fits: bool | None
    seconds: float
    workers: int  # processes that share the work; 1 for a scheduler's address, whose workers are not counted
    device: str
    device_hours: float  # summed over GPUs, or over CPU threads
    device_hours_are_of: str  # ``GPU`` or ``CPU``
    warm_up_images: int
    live_teacher_seconds_per_epoch: float
    """The teacher's forward passes that a student would wait for without the store."""
    reading_seconds_per_epoch: float  # one sequential read of a view from the disk or server
    pays_off_after_epochs: int | None
    """First epoch by which embedding and reading took less time than a live teacher; None if there is none."""


def estimate(settings: EmbedSettings, progress: Progress) -> Estimate:
    """Estimate what ``embed`` with these settings takes; only the index of the images is kept.

    Raises:
        InputError: If the data, the teacher or a setting cannot be used.
        RunError: If rendering fails, or memory is full.
    """
    store = open_store(settings.store) if is_there(settings.store) and (settings.resume or settings.adds) else None
    if store is not None and settings.adds:
        settings = settings_of_store(settings, store)
    if settings.renderer == "auto":
        settings = with_renderer(settings, store, progress)
    workers = settings.workers or 1
    threads = max(1, settings.thread_count // workers)
    one_process = {"workers": None, "scheduler": None, "pixel_hashes": 0, "threads": threads}
    alone = settings.model_copy(update=one_process)
    begin = _clock()
    executor = InProcess(alone, progress)
    loading = _clock() - begin
    with explain_out_of_memory(full_memory_message(alone, executor.compute.device_kind)):
        plan = plan_embedding(alone, executor.network, executor.compute, progress)
        if store is not None:
            plan = as_begun(store, plan, alone)
        measured = _warm_up(alone, plan, executor)

    images = views = views_to_do = 0
    whole, to_write, work = measured.metadata, StoreSize(), np.zeros(2)
    for name, split in plan.splits.items():
        good = int(split.samples.good.sum())
        share = 1 / settings.part.of if settings.part else 1.0  # of the views, that are not embedded yet
        if store is not None and name in store.split_names:
            found = store[name]
            committed = sum(map(found.committed_blocks, range(len(found.views)))) * found.block_rows
            share *= 1 - min(1.0, committed / (len(split.views) * len(split.samples)))
        all_views, samples = views_size(split), samples_size(split)
        images += good
        views += good * len(split.views)
        views_to_do += round(share * good * len(split.views))
        work += share * good * measured.per_image[name]
        whole = whole.plus(all_views).plus(samples)
        to_write = to_write.plus(all_views.times(share))
        to_write = to_write.plus(samples if store is None else StoreSize())

    start = loading + measured.start
    on_gpu = prepare_device(alone.device, alone.thread_count).type == "cuda"
    left = settings.store.free_bytes()
    return Estimate(
        images=images,
        views=views,
        views_to_do=views_to_do,
        bytes=whole.bytes,
        bytes_to_write=to_write.bytes,
        files=whole.files,
        disk_left=left,
        fits=None if left is None else to_write.bytes <= left,
        seconds=start[0] + work[0] / workers,
        workers=workers,
        device=executor.compute.device_kind,
        device_hours=(work[0] if on_gpu else start[1] + work[1]) / 3600,
        device_hours_are_of="GPU" if on_gpu else "CPU",
        warm_up_images=measured.images,
        **compare_with_live_teacher(plan, measured, work[0] / workers),
    )


def compare_with_live_teacher(plan: EmbedPlan, measured: WarmUp, work_seconds: float) -> dict[str, Any]:
    """Return when the store pays off: embedding + e * reading < e * live teacher, in e epochs on the largest split."""
    split = max(plan.splits.values(), key=lambda each: len(each.samples))
    live = float(split.samples.good.sum()) * measured.forward_seconds
    patches = split.patches.positions * (split.patches.components + 2) if split.patches else 0  # codes and scales
    reading = len(split.samples) * (2 * split.feature_dim + patches) / measured.read_bytes_per_second
    return {
        "live_teacher_seconds_per_epoch": live,
        "reading_seconds_per_epoch": reading,
        "pays_off_after_epochs": math.floor(work_seconds / (live - reading)) + 1 if live > reading else None,
    }


def _clock() -> Cost:
    return np.array([time.perf_counter(), time.process_time()])


def _warm_up(settings: EmbedSettings, plan: EmbedPlan, executor: InProcess) -> WarmUp:
    """Embed a few blocks of every split, each of evenly spaced images and at most one batch, and time it."""
    splits = {}
    for name, split in plan.splits.items():
        block_rows = min(split.block_rows, settings.batch_size)
        rows = evenly_spaced(np.arange(len(split.samples)), MAX_BLOCKS * block_rows)
        splits[name] = replace(split, samples=split.samples.take(rows), block_rows=block_rows)
    indexes = {name: replace(plan.indexes[name], samples=split.samples) for name, split in splits.items()}
    with settings.store.scratch() as place:
        begin = _clock()
        canaries = executor.call(plan_canaries, EmbedPlan(plan.attributes, indexes, splits))
        create_store(place, plan.attributes | {"canaries": canaries}, splits)
        start = _clock() - begin
        consolidate(place)
        files: list[Place] = [place / "zarr.json", *place.glob("*/zarr.json"), *place.glob("*/*/zarr.json")]
        metadata = StoreSize(sum(file.size() for file in files), len(files))
        writer = StoreWriter(place)
        sources = {name: index.source for name, index in indexes.items()}
        blocks, images, per_image = missing_blocks(writer), 0, {}
        for name in splits:
            of_split = [block for block in blocks if block.split == name and good_images(writer.store, block)]
            per_image[name], first_block, count = _time_blocks(executor, writer, sources, of_split)
            start, images = start + first_block, images + count
        return WarmUp(per_image, start, executor.call(_forward_seconds, settings), _read_rate(place), metadata, images)


def _time_blocks(
    executor: InProcess, writer: StoreWriter, sources: Sources, blocks: list[Block]
) -> tuple[Cost, Cost, int]:
    """Embed blocks; return the cost per image, what the first block cost above that, and the number of images.

    The second block's time tells how many more fit into the time left. Those are one stream, as in ``embed``, so that
    decoding, forward passes and writing overlap.
    """

    def timed(some: list[Block]) -> tuple[Cost, int]:
        begin = _clock()
        executor.embed_blocks(writer, sources, some, lambda views: None)
        return _clock() - begin, sum(good_images(writer.store, block) for block in some)

    (first, images), (second, more) = timed(blocks[:1]), timed(blocks[1:2])
    left = max(0.0, SECONDS - first[0] - second[0])
    rest, most = timed(blocks[2 : 2 + math.ceil(left / second[0])])
    work, count = second + rest, more + most
    if not count:
        work, count = first, images
    per_image = work / max(1, count)
    return per_image, np.maximum(first - images * per_image, 0), images + more + most


def _forward_seconds(embedder: Embedder, settings: EmbedSettings) -> float:
    """Return the seconds of the teacher's forward pass per view: the best of three batches, smaller ones on a CPU."""
    size = settings.size or embedder.network.preprocessing.size
    device = embedder.renderer.device
    count = min(32, embedder.batch_size) if device.type == "cpu" else embedder.batch_size
    pixels = torch.zeros((count, size, size, 3), dtype=torch.uint8, device=device)
    return min(timeit.repeat(lambda: embed_images(embedder, pixels).get(), number=1, repeat=3)) / count


def _read_rate(place: Place) -> float:
    """Return the bytes per second at which embeddings are read back, from the disk instead of the page cache."""
    chunks: list[Place] = [*place.glob("*/embeddings/c/*/*/0")]
    for chunk in chunks:
        if chunk.is_local:
            with open(str(chunk), "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begin = time.perf_counter()
    count = sum(len(chunk.read_bytes()) for chunk in chunks)
    return count / (time.perf_counter() - begin)
