"""Descriptions of a store from its headers and commit records, without reading its embeddings."""

import math
from typing import Any

from compress_ssl.storage.places.place import lease_holder
from compress_ssl.storage.reader import EmbeddingStore
from compress_ssl.storage.schema import Status
from compress_ssl.storage.split import Split


def describe(store: EmbeddingStore) -> dict[str, Any]:
    """Return the attributes (without pictures), size, progress and writer of a store, and the same for each split.

    ``bytes`` counts the embeddings of all views, without patches, whose ``bytes`` are in the ``patches`` of a split
    (None if it has none); ``stored_bytes`` and ``objects`` count all that is committed so far, without metadata and
    records. A block of a view is committed once its patches are, too.
    """
    attributes = {name: value for name, value in store.attributes.items() if name != "canaries"}
    splits = {split.name: _describe_split(split) for split in store.splits}
    sums = {key: sum(split[key] for split in splits.values()) for key in ("bytes", "stored_bytes", "objects")}
    complete = all(split["views_complete"] == len(split["views"]) for split in splits.values())
    writer = lease_holder(store.path)
    return {"path": str(store.path), **attributes, **sums, "complete": complete, "writer": writer, "splits": splits}


def summary(store: EmbeddingStore) -> dict[str, Any]:
    """Return one entry of a catalogue: as ``describe``, but without reading the per-sample arrays."""
    splits = store.splits
    progress = [_progress(split) for split in splits]
    committed = sum(count for counts, _, _ in progress for count in counts)
    blocks = sum(split.block_count * len(split.views) for split in splits)
    return {
        "teacher": store.attributes.get("teacher", {}).get("name"),
        "data_set": store.attributes.get("data_set", {}).get("name"),
        "splits": store.split_names,
        "samples": sum(map(len, splits)),
        "views": max((len(split.views) for split in splits), default=0),
        "feature_dim": max((split.feature_dim for split in splits), default=0),
        "patches": next(filter(None, map(_describe_patches, splits)), None),
        "stored_bytes": sum(size for _, size, _ in progress),
        "blocks": blocks,
        "blocks_committed": committed,
        "complete": committed == blocks,
        "writer": lease_holder(store.path),
    }


def _describe_split(split: Split) -> dict[str, Any]:
    committed, stored_bytes, objects = _progress(split)
    status = split.samples.status
    return {
        "samples": int((status != Status.PADDING).sum()),
        "bad_images": int((status == Status.BAD_IMAGE).sum()),
        "classes": len(split.class_names),
        "feature_dim": split.feature_dim,
        "views": split.views,
        "views_complete": committed.count(split.block_count),
        "patches": _describe_patches(split),
        "blocks": split.block_count,
        "block_rows": split.block_rows,
        "blocks_committed": committed,
        "bytes": 2 * math.prod((len(split.views), len(split), split.feature_dim)),
        "stored_bytes": stored_bytes,
        "objects": objects,
    }


def _describe_patches(split: Split) -> dict[str, Any] | None:
    if split.patches is None:
        return None
    codes = split.patches.positions * split.patches.components
    scales = 2 * split.patches.positions
    return split.patches.attribute() | {"bytes": len(split.patches.views) * len(split) * (codes + scales)}


def _progress(split: Split) -> tuple[list[int], int, int]:
    """Return the number of committed blocks of each view; bytes and objects of all that is committed."""
    records = {unit: split.committed(unit) for unit in split.units}
    parts = [part for found in records.values() for record in found.values() for part in record.values()]
    views = (split.units_of(view) for view in range(len(split.views)))
    blocks = [len(set.intersection(*(set(records[unit]) for unit in units))) for units in views]
    return blocks, sum(part["size"] for part in parts), len(parts)
