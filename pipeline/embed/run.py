"""Stage one: plan the store, check or create it, embed the blocks that are missing, finish it."""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

from compress_ssl.pipeline.common.errors import InputError, RunError
from compress_ssl.pipeline.common.memory import format_bytes
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.torch_errors import explain_out_of_memory
from compress_ssl.pipeline.embed.block import full_memory_message, good_images
from compress_ssl.pipeline.embed.checks.canaries import check_all_canaries, pixel_hash_file, plan_canaries
from compress_ssl.pipeline.embed.checks.collapse import warn_if_collapsed
from compress_ssl.pipeline.embed.checks.precision import measure_precision
from compress_ssl.pipeline.embed.executor import Executor, InProcess
from compress_ssl.pipeline.embed.fit_patches import fit_patches, with_patches
from compress_ssl.pipeline.embed.growth import grow, settings_of_store
from compress_ssl.pipeline.embed.plan import (
    EmbedPlan,
    as_begun,
    check_resumable,
    missing_blocks,
    plan_embedding,
    warn_of_choices,
    with_renderer,
)
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.networks.reference import with_absolute_path
from compress_ssl.pipeline.networks.user_networks import is_of_this_process
from compress_ssl.storage import EmbeddingStore, Place, open_store
from compress_ssl.storage.errors import DiskSpaceError
from compress_ssl.storage.publish import check_place, is_store, is_there
from compress_ssl.storage.schema import GROWTH
from compress_ssl.storage.tools.growth import is_growing
from compress_ssl.storage.tools.size import StoreSize, block_size, samples_size, size_on_disk, views_size
from compress_ssl.storage.writer import StoreWriter, create_store, exclusive_writer

logger = logging.getLogger(__name__)

FILE_BYTES = 4096  # upper bound of what a file takes beyond its bytes: disks allocate whole blocks


def embed(settings: EmbedSettings, progress: Progress) -> EmbeddingStore:
    """Write an embedding store, finish one, or make one larger.

    Returns:
        store (EmbeddingStore): Open for reading; complete, unless only a part of it was asked for.

    Raises:
        InputError: If the data, the teacher, the cluster or a setting cannot be used.
        StoreError: If the store exists (and neither resume nor overwrite is set), is busy, was made from something
            else, or does not fit on the disk.
        RunError: If rendering fails, memory is full, or the cluster is lost.
    """
    settings = _with_absolute_paths(settings) if settings.scheduler else settings
    resuming = settings.resume and is_there(settings.store)
    growing = settings.adds
    if resuming and not growing:
        attributes = open_store(settings.store).attributes
        growing = is_growing(attributes) or (GROWTH in attributes and not settings.gives_views)
    if growing:
        settings = settings_of_store(settings, open_store(settings.store))
    elif not resuming:
        check_place(settings.store, overwrite=settings.overwrite)
    if settings.renderer == "auto":
        settings = with_renderer(settings, open_store(settings.store) if growing or resuming else None, progress)
    with (
        exclusive_writer(settings.store),
        open_executor(settings, progress) as executor,
        explain_out_of_memory(
            f"{full_memory_message(settings, executor.compute.device_kind)} What is committed stays: run the same "
            "command again, with --resume if it has it."
        ),
    ):
        plan = plan_embedding(settings, executor.network, executor.compute, progress)
        if growing or resuming:
            plan = as_begun(open_store(settings.store), plan, settings)
        sources = {name: index.source for name, index in plan.indexes.items()}
        if growing:
            grow(settings, plan, executor)
        elif resuming:
            check_resumable(open_store(settings.store), plan)
            executor.call(check_all_canaries, settings.store, sources)
        else:
            _create(settings, plan, executor)
        writer = StoreWriter(settings.store)
        blocks = missing_blocks(writer, settings.part)
        if settings.part and settings.part.of > (most := max(split.block_count for split in writer.store.splits)):
            logger.warning(
                "Only %d of %d parts have work: no split has more than %d blocks. Take fewer parts, or a smaller "
                "--block-rows.", most, settings.part.of, most,
            )  # fmt: skip
        if settings.resume and not blocks:
            logger.info("Nothing is left to embed: all that was asked for is in '%s'.", settings.store)
        if growing or resuming:
            needed = StoreSize()
            to_write = Counter((block.split, view) for block in blocks for view in block.views)
            for (name, view), count in to_write.items():
                needed = needed.plus(block_size(writer.store[name], view).times(count))
            _check_disk_space(settings.store, needed, "free some space; what is there stays")
        views = sum(len(block.views) * good_images(writer.store, block) for block in blocks)
        with progress.track("embed", views, "views") as advance:
            executor.embed_blocks(writer, sources, blocks, advance)
        writer.finish()
        if lost := missing_blocks(writer, settings.part):
            raise RunError(
                f"{len(lost):,} blocks of '{settings.store}' were written and are not committed, the first: {lost[0]}; "
                "run the same command with --resume."
            )
    store = open_store(settings.store)
    warn_if_collapsed(store)
    return store


@contextlib.contextmanager
def open_executor(settings: EmbedSettings, progress: Progress) -> Iterator[Executor]:
    """Open the executor of the settings: this process, or a Dask cluster.

    Raises:
        InputError: If the network, the device or the cluster cannot be used.
    """
    if settings.uses_dask:
        if is_of_this_process(settings.teacher):
            raise InputError(
                f"'{settings.teacher}' exists in this process only, and not in Dask's workers; put its function into a "
                "module and give MODULE:FUNCTION, or embed without Dask."
            )
        from compress_ssl.pipeline.dask.cluster import open_client
        from compress_ssl.pipeline.embed.on_dask import DaskExecutor

        with open_client(settings, gpus=settings.device != "cpu") as client:
            yield DaskExecutor(client, settings)
    else:
        yield InProcess(settings, progress)


def _with_absolute_paths(settings: EmbedSettings) -> EmbedSettings:
    """Make paths absolute: Dask workers have other working folders."""
    absolute: dict[str, Any] = {"data": settings.data.absolute(), "store": settings.store.absolute()}
    absolute["teacher"] = with_absolute_path(settings.teacher)
    if settings.index_folder is not None:
        absolute["index_folder"] = settings.index_folder.absolute()
    return settings.model_copy(update=absolute)


def _create(settings: EmbedSettings, plan: EmbedPlan, executor: Executor) -> None:
    """Create the store without its blocks, after all checks."""
    warn_of_choices(executor.network, plan)
    samples = views = StoreSize()
    for split in plan.splits.values():
        views = views.plus(views_size(split).times(1 / (settings.part.of if settings.part else 1)))
        samples = samples.plus(samples_size(split))
    advice = "free some space, give another path, or lower --views"
    # A store that is overwritten is deleted before the first block is written.
    old = size_on_disk(settings.store).bytes if is_store(settings.store) else 0
    _check_disk_space(settings.store, samples, advice)
    _check_disk_space(settings.store, samples.plus(views), advice, freed=old)
    canaries = executor.call(plan_canaries, plan)
    precision = executor.call(measure_precision, plan, executor.progress)
    patches = executor.call(fit_patches, plan, executor.progress)
    attributes = {**plan.attributes, "canaries": canaries, **precision}
    create_store(settings.store, attributes, with_patches(plan.splits, patches), overwrite=settings.overwrite)
    pixel_hash_file(settings.store).unlink(missing_ok=True)


def _check_disk_space(place: Place, needed: StoreSize, advice: str, freed: int = 0) -> None:
    left = place.free_bytes()
    total = needed.bytes + needed.files * FILE_BYTES
    if left is not None and total > left + freed:
        and_old = f", and {format_bytes(freed)} that the old store takes" if freed else ""
        raise DiskSpaceError(
            f"Writing '{place}' needs {format_bytes(total)}, and '{place.existing_parent()}' has "
            f"{format_bytes(left)} left{and_old}; {advice}."
        )
