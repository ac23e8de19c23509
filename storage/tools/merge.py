"""Merging stores of one plan, each of which has some of its blocks, as several machines made them.

Blocks are copied as they are: the result has the bytes that one run over all of it would have written.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from compress_ssl.storage.commits import commit_block, read_records, without_pieces
from compress_ssl.storage.errors import StoreExistsError, StoreMismatchError
from compress_ssl.storage.places.cache import fetch
from compress_ssl.storage.places.parallel import map_threads
from compress_ssl.storage.places.place import Place, PlaceLike, location
from compress_ssl.storage.publish import check_place, is_store, is_there
from compress_ssl.storage.reader import EmbeddingStore, open_store
from compress_ssl.storage.schema import BASIS_UNIT, PATCHES, ROOM, PatchPlan, Record, SplitPlan, Status, unit_name
from compress_ssl.storage.split import Split
from compress_ssl.storage.tools.copy import COPIES
from compress_ssl.storage.tools.identity import check_same_samples
from compress_ssl.storage.writer import StoreWriter, create_store, exclusive_writer

MEASURED = {"explained_variance", "reconstruction_cosine"}
"""Of the patches of a split, rounded as a machine does; the first store's are kept."""

BY_SPLIT = {"data_set", "canaries", "splits", "version"}
"""Attributes of the root with an entry for each split, and the version, which follows from all of them."""

MAY_DIFFER = {"computed_with", "rendering", "precision_against_float32", "growing", "growth"}
"""Attributes that only affect the rounding or how the store came about; the first store's are kept."""

logger = logging.getLogger(__name__)


class UnitBlock(NamedTuple):
    """One block of a view, or of its patches."""

    split: str
    unit: str
    block: int

    def __str__(self) -> str:
        return f"Block {self.block} of {unit_name(self.unit)} of split {self.split}"


@dataclass(frozen=True)
class MergePlan:
    """The merged store, and where its blocks are."""

    attributes: dict[str, Any]
    splits: dict[str, SplitPlan]
    found: dict[UnitBlock, tuple[Place, Record]]  # the split that has each block, and its record


def plan_merge(stores: Sequence[EmbeddingStore]) -> MergePlan:
    """Check that stores are parts of one, and find all blocks.

    Args:
        stores (sequence of EmbeddingStore): Each has some of the splits, with the same samples as in the others, and
            all of its views or the first ones.

    Raises:
        StoreMismatchError: If they were made with different settings or from different images, or a block differs
            between two of them.
    """
    first = stores[0]
    splits: dict[str, Split] = {}
    found: dict[UnitBlock, tuple[Place, Record]] = {}
    for store in stores:
        _check_agree(first, store, _compared(first), _compared(store))
        for split in store.splits:
            splits[split.name] = _with_more_views(splits.get(split.name, split), split)
            for unit in split.view_units:
                for block, record in read_records(split.path, unit).items():
                    place = UnitBlock(split.name, unit, block)
                    before, known = found.setdefault(place, (split.path, record))
                    if without_pieces(known) != without_pieces(record):
                        raise StoreMismatchError(
                            f"{place} is not the same in '{before}' and in '{split.path}'; leave one of the two out, "
                            "or embed one again."
                        )
    return MergePlan(_attributes(stores, splits), {name: _plan_of(split) for name, split in splits.items()}, found)


def _compared(store: EmbeddingStore) -> dict[str, Any]:
    """Return what must be the same: all attributes but those above, entries of tables one by one."""
    compared: dict[str, Any] = {"renderer": store.attributes.get("rendering", {}).get("renderer")}
    for key, value in store.attributes.items():
        if key not in BY_SPLIT | MAY_DIFFER:
            is_table = isinstance(value, dict)
            compared |= {f"{key}.{inner}": each for inner, each in value.items()} if is_table else {key: value}
    return compared


def _check_agree(one: EmbeddingStore | Split, other: EmbeddingStore | Split, *facts: dict[str, Any]) -> None:
    for key in dict.fromkeys((*facts[0], *facts[1])):
        values = [each.get(key) for each in facts]
        if values[0] != values[1]:
            raise StoreMismatchError(
                f"'{one.path}' and '{other.path}' are not parts of one store: their {key} is {values[0]!r} and "
                f"{values[1]!r}; merge stores that were embedded with the same settings."
            )


def _with_more_views(one: Split, other: Split) -> Split:
    """Return the one of two parts of a split that is planned with more views."""
    apart = {"views", "samples", "class_names", PATCHES, ROOM}
    common = min(len(one.views), len(other.views))
    facts = (
        {key: value for key, value in split.attributes.items() if key not in apart}
        | {"features": split.feature_dim, "columns of augmentation": split.columns}
        | {f"view {view}": split.views[view] for view in range(common)}
        | {f"patches.{key}": value for key, value in _patches_of(split, common).items()}
        for split in (one, other)
    )
    _check_agree(one, other, *facts)
    _check_same_basis(one, other)
    check_same_samples(one.name, one.samples, other.samples)
    return one if len(one.views) >= len(other.views) else other


def _patches_of(split: Split, views: int) -> dict[str, Any]:
    """Return what the patches of the first views of a split are, without what was measured; empty if it has none."""
    found = split.patches.attribute() if split.patches else {}
    kept = {key: value for key, value in found.items() if key not in MEASURED}
    return kept | {"views": [view for view in kept["views"] if view < views]} if kept else {}


def _check_same_basis(one: Split, other: Split) -> None:
    if one.patches is None:
        return
    records = [without_pieces(split.committed(BASIS_UNIT).get(0, {})) for split in (one, other)]
    if records[0] != records[1]:
        raise StoreMismatchError(
            f"'{one.path}' and '{other.path}' are not parts of one store: they have different patch bases, which "
            "machines of different kinds compute; embed the parts into copies of one store ('store copy', then 'embed "
            "--resume --part')."
        )


def _attributes(stores: Sequence[EmbeddingStore], splits: Mapping[str, Split]) -> dict[str, Any]:
    """Return the attributes of the root: the first store's, and those of splits that it lacks from the others."""
    first = stores[0].attributes
    for store in stores[1:]:
        for key in ("rendering", "computed_with"):
            if store.attributes.get(key) != first.get(key):
                logger.warning(
                    "'%s' and '%s' were made on different machines (%s differs): the embeddings agree with those of "
                    "one run up to rounding only.",
                    stores[0].path,
                    store.path,
                    key,
                )
    attributes = {**first, "data_set": dict(first.get("data_set", {}))}
    for store in stores:
        others = store.attributes
        tables = ((attributes, others, "canaries"), (attributes["data_set"], others.get("data_set", {}), "fingerprint"))
        for mine, theirs, key in tables:
            if key in theirs:
                known = mine.get(key, {})
                mine[key] = {**known, **theirs[key], **known}  # the first store's entries come first, and are kept
    attributes["data_set"]["images"] = sum(
        int((split.samples.status != Status.PADDING).sum()) for split in splits.values()
    )
    return attributes


def _plan_of(split: Split) -> SplitPlan:
    patches = None
    if split.patches is not None:
        mean, basis = split.patch_basis
        patches = PatchPlan(**vars(split.patches), mean=mean, basis=basis)
    row = (split.columns, split.feature_dim, split.block_rows)
    return SplitPlan(split.samples, split.folder, split.views, *row, patches)


def merge_stores(plan: MergePlan, target: PlaceLike, advance: Callable[[int], None]) -> list[str]:
    """Write the merged store, or resume a merge that was interrupted.

    Args:
        advance: Called with the number of blocks that are done.

    Returns:
        missing (list of str): A sentence for each view, or its patches, that has blocks which are in no store.

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
        lacking = [
            UnitBlock(split.name, unit, block)
            for split in writer.store.splits
            for unit in split.view_units
            for block in sorted(set(range(split.block_count)).difference(split.committed(unit)))
        ]

        def copy(block: UnitBlock) -> None:
            source, record = plan.found[block]
            split = place / block.split
            for key, part in record.items():
                split.inside(key).write_durably(fetch(source.inside(key), part))
            commit_block(split, block.unit, block.block, record, writer.holder)

        advance(len(plan.found.keys() - set(lacking)))
        for _ in map_threads(copy, [block for block in lacking if block in plan.found], threads=COPIES):
            advance(1)
        writer.finish()
    sentences = []
    for (name, unit), found in groupby((b for b in lacking if b not in plan.found), key=lambda block: block[:2]):
        blocks = [each.block for each in found]
        shown = ", ".join(map(str, blocks[:10])) + (", ..." if len(blocks) > 10 else "")
        count = writer.store[name].block_count
        sentences.append(f"{name}, {unit_name(unit)}: {len(blocks)} of {count} blocks are in no store ({shown})")
    return sentences


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
    there = {split.name: _facts(_plan_of(split)) for split in store.splits}
    if found != wanted or there != {name: _facts(split) for name, split in plan.splits.items()}:
        raise exists


def _facts(plan: SplitPlan) -> tuple[Any, ...]:
    samples, patches = plan.samples, plan.patches
    basis = (patches.attribute(), patches.mean.tolist(), patches.basis.tolist()) if patches else None
    rows = (samples.sample_path, samples.content_hash.tolist())
    return *rows, plan.views, plan.columns, plan.block_rows, plan.feature_dim, basis
