"""The stage: plan the blocks, have those that are missing computed and written, finish the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress_ssl.pipeline.embed.block import Block, good_images
from compress_ssl.pipeline.embed.checks.canaries import check_all_canaries, plan_canaries
from compress_ssl.pipeline.embed.checks.disk_space import check_blocks_fit, check_new_store_fits
from compress_ssl.pipeline.embed.checks.precision import measure_precision
from compress_ssl.pipeline.embed.growth import grow, settings_of_store
from compress_ssl.pipeline.embed.in_process import open_workforce, seen_from_anywhere
from compress_ssl.pipeline.embed.pixel_hashes import forget_pixel_hashes, pixel_hash_path
from compress_ssl.pipeline.embed.plan import EmbedPlan, check_resumable, plan_embedding
from compress_ssl.storage import open_store
from compress_ssl.storage.publish import is_there
from compress_ssl.storage.tools.growth import is_growing
from compress_ssl.storage.writer import StoreWriter, check_place, create_store, exclusive_writer

if TYPE_CHECKING:
    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.embed.block import Embedder
    from compress_ssl.pipeline.embed.settings import EmbedSettings
    from compress_ssl.storage import EmbeddingStore


def embed(settings: EmbedSettings, progress: Progress) -> EmbeddingStore:
    """Write an embedding store, finish one, or make one larger.

    Returns
    -------
    store : EmbeddingStore
        Open for reading; complete, unless only a part of it was asked for.

    Raises
    ------
    InputError
        If the data, the teacher, the cluster or a setting cannot be used, or the disk has not the space.
    StoreError
        If the store exists (and neither resume nor overwrite is asked), is busy, or was made from something else.
    RunError
        If rendering fails, or the cluster is lost.
    """
    settings = seen_from_anywhere(settings) if settings.scheduler else settings
    resuming = settings.resume and is_there(settings.store)
    growing = settings.adds or (resuming and is_growing(open_store(settings.store).attributes))
    if growing:
        settings = settings_of_store(settings, open_store(settings.store))
    elif not resuming:
        check_place(settings.store, overwrite=settings.overwrite)
    if settings.pixel_hashes:
        pixel_hash_path(settings.store)
    with exclusive_writer(settings.store), open_workforce(settings, progress) as workforce:
        plan = plan_embedding(settings, workforce.network, workforce.machine, progress)
        sources = {name: index.source for name, index in plan.indexes.items()}
        if growing:
            grow(settings, plan, workforce)
        elif resuming:
            check_resumable(open_store(settings.store), plan)
            workforce.call(check_all_canaries, settings.store, sources)
        else:
            check_new_store_fits(settings, plan)
            attributes = plan.attributes | workforce.call(_measure, plan, workforce.progress)
            create_store(settings.store, attributes, plan.splits, overwrite=settings.overwrite)
            forget_pixel_hashes(settings.store)
        writer = StoreWriter(settings.store)
        blocks = [block for block in plan_blocks(writer) if settings.part is None or settings.part.has(block.number)]
        if growing or resuming:
            check_blocks_fit(writer.store, blocks)
        views = sum(len(block.views) * good_images(writer.store, block) for block in blocks)
        with progress.track("embed", views, "views") as advance:
            workforce.embed_blocks(writer, sources, blocks, advance)
        writer.finish()
    return open_store(settings.store)


def plan_blocks(writer: StoreWriter) -> list[Block]:
    """List the blocks that are not committed, in store order."""
    return [
        Block(split, number, tuple(views))
        for split in writer.store.split_names
        for number, views in writer.pending_blocks(split).items()
    ]


def _measure(worker: Embedder, plan: EmbedPlan, progress: Progress) -> dict[str, Any]:
    """What the store says of its views and its precision, by a look at some images."""
    return {"canaries": plan_canaries(plan, worker.renderer), **measure_precision(worker, plan, progress)}
