"""Joining stores of one plan, each of which has some of its blocks: what several machines made apart from each other.

Blocks are copied as they are: the result has the bytes that one run over all of it would have left.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import TYPE_CHECKING, Any

from compress_ssl.storage.commits import commit_block
from compress_ssl.storage.errors import StoreExistsError
from compress_ssl.storage.places.cache import fetch
from compress_ssl.storage.places.durable import write_durably
from compress_ssl.storage.publish import is_there
from compress_ssl.storage.reader import is_store, open_store
from compress_ssl.storage.tools.merge_plan import MergePlan, Unit, plan_of
from compress_ssl.storage.writer import StoreWriter, check_place, create_store, exclusive_writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from compress_ssl.storage.commits import Record
    from compress_ssl.storage.places.remote import Place
    from compress_ssl.storage.reader import EmbeddingStore
    from compress_ssl.storage.schema import SplitPlan

COPIES = 8
"""Blocks that are copied side by side: about 128 MiB of memory."""


def merge_stores(plan: MergePlan, target: Place, advance: Callable[[int], None]) -> list[str]:
    """Write the merged store, or go on with one that was broken off.

    Parameters
    ----------
    advance : callable
        Told of every block that is done.

    Returns
    -------
    missing : list of str
        A sentence for each view that no store has whole.

    Raises
    ------
    StoreExistsError
        If something else is at the target.
    StoreDamagedError
        If a block has other bytes than were committed.
    """
    with exclusive_writer(target):
        if is_there(target):
            _check_begun(plan, target)
        else:
            check_place(target, overwrite=False)
            create_store(target, plan.attributes, plan.splits)
        writer = StoreWriter(target)
        lacking = {
            Unit(name, view, block)
            for name in plan.splits
            for block, views in writer.pending_blocks(name).items()
            for view in views
        }

        def copy(unit: Unit) -> None:
            _copy_block(unit, *plan.found[unit], target / unit.split)
            advance(1)

        advance(len(plan.found.keys() - lacking))
        with ThreadPoolExecutor(COPIES) as pool:
            list(pool.map(copy, sorted(lacking & plan.found.keys())))
        writer.finish()
    return _missing(lacking - plan.found.keys(), writer.store)


def _check_begun(plan: MergePlan, target: Place) -> None:
    """Check that what is at the target is this merge, broken off or whole."""
    exists = StoreExistsError(f"'{target}' exists already, and is not a merge of these stores; give another path.")
    if not is_store(target):
        raise exists
    store = open_store(target)
    header = {"format", "version", "splits"}
    same = {key: value for key, value in store.attributes.items() if key not in header} == {
        key: value for key, value in plan.attributes.items() if key not in header
    }
    if not same or {name: _facts(plan_of(store[name])) for name in store.split_names} != {
        name: _facts(split) for name, split in plan.splits.items()
    }:
        raise exists


def _facts(plan: SplitPlan) -> tuple[Any, ...]:
    return plan.samples.sample_path, plan.samples.content_hash.tolist(), plan.views, plan.block_rows, plan.feature_dim


def _copy_block(unit: Unit, source: Place, record: Record, split: Place) -> None:
    for key, part in record.items():
        write_durably(split / key, fetch(source / key, part))
    commit_block(split, str(unit.view), unit.block, list(record))


def _missing(lacking: set[Unit], store: EmbeddingStore) -> list[str]:
    """A sentence for each view of which blocks are lacking."""
    sentences = []
    for (name, view), units in groupby(sorted(lacking), key=lambda unit: unit[:2]):
        blocks = [unit.block for unit in units]
        shown = ", ".join(map(str, blocks[:10])) + (", ..." if len(blocks) > 10 else "")
        sentences.append(
            f"{name}, view {view}: {len(blocks)} of {store[name].block_count} blocks are in no store ({shown})"
        )
    return sentences
