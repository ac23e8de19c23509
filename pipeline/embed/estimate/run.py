"""The estimate: bytes and files follow from the plan, time from a warm-up, the rest from both.

Letters: e epochs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from compress_ssl.pipeline.common.device import prepare_device
from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.embed.estimate.cost import Cost, now, since
from compress_ssl.pipeline.embed.estimate.warm_up import Measured, warm_up
from compress_ssl.pipeline.embed.growth import settings_of_store
from compress_ssl.pipeline.embed.in_process import open_workforce
from compress_ssl.pipeline.embed.plan import EmbedPlan, plan_embedding
from compress_ssl.storage import open_store
from compress_ssl.storage.publish import is_there
from compress_ssl.storage.tools.size import StoreSize, disk_left, samples_size, view_size

if TYPE_CHECKING:
    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.embed.settings import EmbedSettings
    from compress_ssl.storage import EmbeddingStore, SplitPlan


class Estimate(Settings):
    """What ``embed`` with the same settings will take."""

    images: int
    """That can be decoded."""
    views: int
    """Of all images together; ``views_to_do`` of them are not in the store yet."""
    views_to_do: int
    bytes: int
    """Of the finished store, exactly; ``bytes_to_write`` of them are not there yet."""
    bytes_to_write: int
    files: int
    disk_left: int | None
    """Bytes; None at a URL."""
    fits: bool | None
    seconds: float
    workers: int
    """Processes that share the time; 1 at a scheduler's address, whose workers are not counted."""
    device: str
    device_hours: float
    """Of all GPUs together, or what all CPU threads compute."""
    device_hours_are_of: str
    """``GPU`` or ``CPU``."""
    warm_up_images: int
    live_teacher_seconds_an_epoch: float
    """The teacher's forward passes that a student would wait for without the store."""
    reading_seconds_an_epoch: float
    """One view, from the disk or server, by one sequential read."""
    pays_off_after_epochs: int | None
    """Epochs after which embedding and reading took less time than a live teacher; None where they never do."""


def estimate(settings: EmbedSettings, progress: Progress) -> Estimate:
    """Foretell what ``embed`` with these settings will take; writes nothing but the index of the images.

    Raises
    ------
    InputError
        If the data, the teacher or a setting cannot be used.
    RunError
        If rendering fails.
    """
    store = open_store(settings.store) if is_there(settings.store) and (settings.resume or settings.adds) else None
    if store is not None and settings.adds:
        settings = settings_of_store(settings, store)
    workers = settings.workers or 1
    alone = settings.model_copy(
        update={
            "workers": None,
            "scheduler": None,
            "pixel_hashes": 0,
            "threads": max(1, settings.thread_count // workers),
        }
    )
    begun = now()
    with open_workforce(alone, progress) as workforce:
        start = since(begun)
        plan = plan_embedding(alone, workforce.network, workforce.machine, progress)
        measured = warm_up(alone, plan, workforce)
    on_gpu = prepare_device(alone.device, alone.thread_count).type == "cuda"
    to_do = {name: _images_to_do(name, split, store, settings) for name, split in plan.splits.items()}
    work = Cost()
    for name, images in to_do.items():
        work = work.plus(measured.an_image[name].times(images))
    whole = start.plus(measured.start).plus(work)
    return Estimate(
        **_sizes(settings, plan, measured, to_do, store),
        **_epochs(plan, measured, work.wall / workers),
        seconds=whole.wall - work.wall * (1 - 1 / workers),
        workers=workers,
        device=workforce.machine.device_kind,
        device_hours=(work.wall if on_gpu else whole.cpu) / 3600,
        device_hours_are_of="GPU" if on_gpu else "CPU",
        warm_up_images=measured.images,
    )


def _images_to_do(name: str, split: SplitPlan, store: EmbeddingStore | None, settings: EmbedSettings) -> float:
    """Images, each in all views, that are not embedded yet; a part of the views of an image counts as that part."""
    good = float(split.samples.good.sum())
    share = 1 / settings.part.of if settings.part else 1.0
    if store is None or name not in store.split_names:
        return share * good
    found = store[name]
    committed = sum(found.committed_blocks(view) for view in range(len(found.views))) * found.block_rows
    done = min(1.0, committed / (len(split.views) * len(split.samples)))
    return share * (1 - done) * good


def _sizes(
    settings: EmbedSettings, plan: EmbedPlan, measured: Measured, to_do: dict[str, float], store: EmbeddingStore | None
) -> dict[str, Any]:
    whole, missing, views, views_to_do = measured.metadata, StoreSize(), 0, 0
    for name, split in plan.splits.items():
        good = int(split.samples.good.sum())
        all_views = view_size(split).times(len(split.views))
        samples = samples_size(split)
        share = to_do[name] / good
        whole = whole.plus(all_views).plus(samples)
        missing = missing.plus(StoreSize(round(all_views.bytes * share), round(all_views.files * share)))
        missing = missing.plus(StoreSize() if store is not None else samples)
        views += good * len(split.views)
        views_to_do += round(to_do[name] * len(split.views))
    left = disk_left(settings.store)
    return {
        "images": sum(int(split.samples.good.sum()) for split in plan.splits.values()),
        "views": views,
        "views_to_do": views_to_do,
        "bytes": whole.bytes,
        "bytes_to_write": missing.bytes,
        "files": whole.files,
        "disk_left": left,
        "fits": None if left is None else missing.bytes <= left,
    }


def _epochs(plan: EmbedPlan, measured: Measured, work_seconds: float) -> dict[str, Any]:
    """When the store pays: embedding + e x reading < e x a live teacher. Of the split with the most images."""
    split = max(plan.splits.values(), key=lambda each: len(each.samples))
    live = float(split.samples.good.sum()) * measured.forward_seconds_a_view
    reading = 2 * len(split.samples) * split.feature_dim / measured.read_bytes_a_second
    return {
        "live_teacher_seconds_an_epoch": live,
        "reading_seconds_an_epoch": reading,
        "pays_off_after_epochs": math.floor(work_seconds / (live - reading)) + 1 if live > reading else None,
    }
