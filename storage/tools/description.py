"""What a store holds, as a person and as a program may ask: by its headers and commit records, without its data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from compress_ssl.storage import schema
from compress_ssl.storage.commits import SAMPLES_UNIT
from compress_ssl.storage.places.lease import lease_holder

if TYPE_CHECKING:
    from compress_ssl.storage.commits import Record
    from compress_ssl.storage.reader import EmbeddingStore
    from compress_ssl.storage.split import Split


def describe(store: EmbeddingStore) -> dict[str, Any]:
    """Attributes (no pictures), size, progress and writer of a store, and for each split the same.

    ``bytes`` are of the embeddings of all views; ``stored_bytes`` and ``objects`` of what is committed up to now, without
    metadata and records.
    """
    attributes = {name: value for name, value in store.attributes.items() if name != "canaries"}
    splits = {name: _describe_split(store[name]) for name in store.split_names}
    sums = {key: sum(split[key] for split in splits.values()) for key in ("bytes", "stored_bytes", "objects")}
    complete = all(split["views_complete"] == len(split["views"]) for split in splits.values())
    writer = lease_holder(store.path)
    return {"path": str(store.path), **attributes, **sums, "complete": complete, "writer": writer, "splits": splits}


def summary(store: EmbeddingStore) -> dict[str, Any]:
    """One line of a catalogue: as ``describe``, and without reading which images there are."""
    splits = [store[name] for name in store.split_names]
    records = [_records(split) for split in splits]
    committed = [len(found) for views, _ in records for found in views]
    blocks = sum(split.block_count * len(split.views) for split in splits)
    return {
        "teacher": store.attributes.get("teacher", {}).get("name"),
        "data_set": store.attributes.get("data_set", {}).get("name"),
        "splits": store.split_names,
        "samples": sum(map(len, splits)),
        "views": max((len(split.views) for split in splits), default=0),
        "feature_dim": max((split.feature_dim for split in splits), default=0),
        "stored_bytes": sum(_size(found)[0] for views, samples in records for found in (*views, samples)),
        "blocks": blocks,
        "blocks_committed": sum(committed),
        "complete": sum(committed) == blocks,
        "writer": lease_holder(store.path),
    }


def _describe_split(split: Split) -> dict[str, Any]:
    views, samples = _records(split)
    committed = [len(found) for found in views]
    stored = np.sum([_size(found) for found in (*views, samples)], axis=0)
    return {
        "samples": int((split.samples.status != schema.Status.PADDING).sum()),
        "bad_images": int((split.samples.status == schema.Status.BAD_IMAGE).sum()),
        "classes": len(split.class_names),
        "feature_dim": split.feature_dim,
        "views": split.views,
        "views_complete": committed.count(split.block_count),
        "blocks": split.block_count,
        "block_rows": split.block_rows,
        "blocks_committed": committed,
        "bytes": 2 * math.prod((len(split.views), len(split), split.feature_dim)),
        "stored_bytes": int(stored[0]),
        "objects": int(stored[1]),
    }


def _records(split: Split) -> tuple[list[dict[int, Record]], dict[int, Record]]:
    """Committed records of every view, and of the samples."""
    return [split.committed(str(view)) for view in range(len(split.views))], split.committed(SAMPLES_UNIT)


def _size(records: dict[int, Record]) -> tuple[int, int]:
    """Bytes and objects of what was committed."""
    parts = [part for record in records.values() for part in record.values()]
    return sum(part["size"] for part in parts), len(parts)
