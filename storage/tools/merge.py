"""Merging stores of one plan, each of which has some of its blocks, as several machines made them.

Blocks are copied as they are: the result has the bytes that one run over all of it would have written.
"""

from collections.abc import Callable
from itertools import groupby
from typing import Any

from compress_ssl.storage.commits import commit_block
from compress_ssl.storage.errors import StoreExistsError
from compress_ssl.storage.places.cache import fetch
from compress_ssl.storage.places.parallel import map_threads
from compress_ssl.storage.places.place import Place, PlaceLike, location
from compress_ssl.storage.publish import check_place, is_there
from compress_ssl.storage.reader import EmbeddingStore, open_store
from compress_ssl.storage.recognise import is_store
from compress_ssl.storage.schema import SplitPlan
from compress_ssl.storage.tools.copy import COPIES
from compress_ssl.storage.tools.merge_plan import MergePlan, ViewBlock, plan_of
from compress_ssl.storage.writer import StoreWriter, create_store, exclusive_writer


def merge_stores(plan: MergePlan, target: PlaceLike, advance: Callable[[int], None]) -> list[str]:
    """Write the merged store, or resume a merge that was interrupted.

    Args:
        advance: Called with the number of blocks that are done.

    Returns:
        missing (list of str): A sentence for each view that has blocks which are in no store.

    Raises:
        StoreExistsError: If something else is at the target.
        StoreDamagedError: If a block has other bytes than were committed.
    """
    place = location(target)
    with exclusive_writer(place):
        if is_there(place):
            _check_resumable(plan, place)
        else:
            check_place(place, overwrite=False)
            create_store(place, plan.attributes, plan.splits)
        writer = StoreWriter(place)
        lacking = {
            ViewBlock(name, view, block)
            for name in plan.splits
            for block, views in writer.pending_blocks(name).items()
            for view in views
        }

        def copy(block: ViewBlock) -> None:
            source, record = plan.found[block]
            split = place / block.split
            for key, part in record.items():
                (split / key).write_durably(fetch(source / key, part))
            commit_block(split, str(block.view), block.block)

        advance(len(plan.found.keys() - lacking))
        for _ in map_threads(copy, sorted(lacking & plan.found.keys()), threads=COPIES):
            advance(1)
        writer.finish()
    return _missing(lacking - plan.found.keys(), writer.store)


def _check_resumable(plan: MergePlan, target: Place) -> None:
    """Check that the target is this merge, interrupted or whole."""
    exists = StoreExistsError(f"'{target}' exists already, and is not a merge of these stores; give another path.")
    if not is_store(target):
        raise exists
    store = open_store(target)
    header = {"format", "version", "splits"}
    wanted, found = (
        {key: value for key, value in attributes.items() if key not in header}
        for attributes in (plan.attributes, store.attributes)
    )
    there = {split.name: _facts(plan_of(split)) for split in store.splits}
    if found != wanted or there != {name: _facts(split) for name, split in plan.splits.items()}:
        raise exists


def _facts(plan: SplitPlan) -> tuple[Any, ...]:
    return plan.samples.sample_path, plan.samples.content_hash.tolist(), plan.views, plan.block_rows, plan.feature_dim


def _missing(lacking: set[ViewBlock], store: EmbeddingStore) -> list[str]:
    """Return a sentence for each view that lacks blocks."""
    sentences = []
    for (name, view), found in groupby(sorted(lacking), key=lambda block: block[:2]):
        blocks = [each.block for each in found]
        shown = ", ".join(map(str, blocks[:10])) + (", ..." if len(blocks) > 10 else "")
        sentences.append(
            f"{name}, view {view}: {len(blocks)} of {store[name].block_count} blocks are in no store ({shown})"
        )
    return sentences
