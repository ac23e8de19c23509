"""``estimate``: bytes and files follow from the plan, time from a short timed run."""

import math
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from compress_ssl.pipeline.common.device import prepare_device
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.embed.estimate.warm_up import WarmUp, clock, warm_up
from compress_ssl.pipeline.embed.growth import settings_of_store
from compress_ssl.pipeline.embed.in_process import InProcess
from compress_ssl.pipeline.embed.plan import EmbedPlan, plan_embedding
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.storage import EmbeddingStore, SplitPlan, open_store
from compress_ssl.storage.publish import is_there
from compress_ssl.storage.tools.size import StoreSize, samples_size, view_size


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
    live_teacher_seconds_an_epoch: float
    """The teacher's forward passes that a student would wait for without the store."""
    reading_seconds_an_epoch: float  # one sequential read of a view from the disk or server
    pays_off_after_epochs: int | None
    """First epoch by which embedding and reading took less time than a live teacher; None if there is none."""


def estimate(settings: EmbedSettings, progress: Progress) -> Estimate:
    """Estimate what ``embed`` with these settings takes; only the index of the images is kept.

    Raises:
        InputError: If the data, the teacher or a setting cannot be used.
        RunError: If rendering fails.
    """
    store = open_store(settings.store) if is_there(settings.store) and (settings.resume or settings.adds) else None
    if store is not None and settings.adds:
        settings = settings_of_store(settings, store)
    workers = settings.workers or 1
    one_process = {"workers": None, "scheduler": None, "pixel_hashes": 0}
    alone = settings.model_copy(update={**one_process, "threads": max(1, settings.thread_count // workers)})
    begin = clock()
    executor = InProcess(alone, progress)
    loading = clock() - begin
    plan = plan_embedding(alone, executor.network, executor.compute, progress)
    measured = warm_up(alone, plan, executor)

    images = views = views_to_do = 0
    whole, to_write, work = measured.metadata, StoreSize(), np.zeros(2)
    for name, split in plan.splits.items():
        good = int(split.samples.good.sum())
        share = _share_to_do(name, split, store, settings)
        all_views, samples = view_size(split).times(len(split.views)), samples_size(split)
        images += good
        views += good * len(split.views)
        views_to_do += round(share * good * len(split.views))
        work += share * good * measured.per_image[name]
        whole = whole.plus(all_views).plus(samples)
        to_write = to_write.plus(StoreSize(round(all_views.bytes * share), round(all_views.files * share)))
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


def _share_to_do(name: str, split: SplitPlan, store: EmbeddingStore | None, settings: EmbedSettings) -> float:
    """Return the share of a split's views that are not embedded yet."""
    share = 1 / settings.part.of if settings.part else 1.0
    if store is None or name not in store.split_names:
        return share
    found = store[name]
    committed = sum(map(found.committed_blocks, range(len(found.views)))) * found.block_rows
    return share * (1 - min(1.0, committed / (len(split.views) * len(split.samples))))


def compare_with_live_teacher(plan: EmbedPlan, measured: WarmUp, work_seconds: float) -> dict[str, Any]:
    """Return when the store pays off: embedding + e * reading < e * live teacher, in e epochs on the largest split."""
    split = max(plan.splits.values(), key=lambda each: len(each.samples))
    live = float(split.samples.good.sum()) * measured.forward_seconds
    reading = 2 * len(split.samples) * split.feature_dim / measured.read_bytes_per_second
    return {
        "live_teacher_seconds_an_epoch": live,
        "reading_seconds_an_epoch": reading,
        "pays_off_after_epochs": math.floor(work_seconds / (live - reading)) + 1 if live > reading else None,
    }
