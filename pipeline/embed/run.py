"""The stage in one process: plan the blocks, do those that are missing, write each while the next is computed."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from pipeline.embed.block import Block, EmbeddedView, Worker, embed_block
from pipeline.embed.canaries import check_all_canaries, plan_canaries
from pipeline.embed.pixel_hashes import forget_pixel_hashes, pixel_hash_log, pixel_hash_path
from pipeline.embed.plan import EmbedPlan, check_resumable, plan_embedding
from pipeline.embed.precision import measure_precision
from pipeline.images.rendering import make_renderer
from pipeline.machine import choose_precision, prepare_machine
from pipeline.networks.network import load_network
from storage import open_store
from storage.placing import is_there
from storage.writer import StoreWriter, check_place, create_store, exclusive_writer

if TYPE_CHECKING:
    from concurrent.futures import Future

    from pipeline.embed.settings import EmbedSettings
    from pipeline.progress import Progress
    from storage import EmbeddingStore


def embed(settings: EmbedSettings, progress: Progress) -> EmbeddingStore:
    """Write an embedding store, or finish one.

    Returns
    -------
    store : EmbeddingStore
        Complete, open for reading.

    Raises
    ------
    InputError
        If the data, the teacher or a setting cannot be used.
    StoreError
        If the store exists (and neither resume nor overwrite is asked), is busy, or was made from something else.
    RunError
        If rendering fails.
    """
    device = prepare_machine(settings.device, settings.thread_count)
    resuming = settings.resume and is_there(settings.store)
    if not resuming:
        check_place(settings.store, overwrite=settings.overwrite)
    if settings.pixel_hashes:
        pixel_hash_path(settings.store)
    with exclusive_writer(settings.store):
        network = load_network(settings.teacher, settings.seed)
        network.module.eval().to(device).to(memory_format=torch.channels_last)
        plan = plan_embedding(settings, network, device, progress)
        renderer = make_renderer(settings.renderer, device, settings.thread_count)
        worker = Worker(
            network, renderer, settings.batch_size, choose_precision(settings.precision, device), settings.normalise
        )
        if resuming:
            store = open_store(settings.store)
            check_resumable(store, plan)
            check_all_canaries(store, plan, renderer, settings.batch_size)
        else:
            attributes = plan.attributes | {"canaries": plan_canaries(plan, renderer)}
            attributes |= measure_precision(worker, plan, progress)
            create_store(settings.store, attributes, plan.splits, overwrite=settings.overwrite)
            forget_pixel_hashes(settings.store)
        writer = StoreWriter(settings.store)
        _do_blocks(worker, writer, plan, settings, progress)
        writer.finish()
    return open_store(settings.store)


def plan_blocks(writer: StoreWriter) -> list[Block]:
    """List the blocks that are not committed, in store order."""
    return [
        Block(split, number, tuple(views))
        for split in writer.store.split_names
        for number, views in writer.pending_blocks(split).items()
    ]


def _do_blocks(
    worker: Worker, writer: StoreWriter, plan: EmbedPlan, settings: EmbedSettings, progress: Progress
) -> None:
    blocks = plan_blocks(writer)
    views = sum(len(block.views) * _good_images(writer.store, block) for block in blocks)
    done: Future[None] | None = None
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1))
        advance = stack.enter_context(progress.track("embed", views, "views"))
        on_pixels = None
        if settings.pixel_hashes:
            on_pixels = stack.enter_context(pixel_hash_log(writer.store, settings.pixel_hashes))
        for block in blocks:
            split = writer.store[block.split]
            source = plan.indexes[block.split].source
            embedded = embed_block(worker, split, source, block, advance, on_pixels)
            if done is not None:
                done.result()
            done = pool.submit(_write, writer, block, embedded)
        if done is not None:
            done.result()


def _good_images(store: EmbeddingStore, block: Block) -> int:
    split = store[block.split]
    return int(split.samples.good[split.block_slice(block.number)].sum())


def _write(writer: StoreWriter, block: Block, embedded: dict[int, EmbeddedView]) -> None:
    for view, (embeddings, augmentation) in embedded.items():
        writer.write_block(block.split, block.number, view, embeddings, augmentation)
