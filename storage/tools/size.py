"""Sizes of stores, computed from their layout before anything is written.

Letters: N samples, D features, P parameters, R rows of a block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from compress_ssl.storage import schema
from compress_ssl.storage.places.durable import json_bytes
from compress_ssl.storage.places.place import PlaceLike, location

LENGTH_BYTES = 4  # of the length before each text in a chunk of texts

HASH = "0" * 16  # A hash of a record's length


class StoreSize(NamedTuple):
    """Bytes and files (objects, at a URL)."""

    bytes: int = 0
    files: int = 0

    def plus(self, other: StoreSize) -> StoreSize:
        """Return the sum."""
        return StoreSize(self.bytes + other.bytes, self.files + other.files)

    def times(self, count: float) -> StoreSize:
        """Return ``count`` times the size, rounded."""
        return StoreSize(round(count * self.bytes), round(count * self.files))


def block_size(feature_dim: int, parameters: int, block_rows: int) -> StoreSize:
    """Return the size of one view of one block, without its record."""
    sizes = [_chunk_bytes(name, (1, feature_dim, parameters, block_rows)) for name in schema.VIEW_ARRAYS]
    return StoreSize(sum(sizes), len(sizes))


def view_size(plan: schema.SplitPlan) -> StoreSize:
    """Return the size of one view of a split: its blocks and their manifest."""
    blocks = schema.block_count(len(plan.samples), plan.block_rows)
    dimensions = (1, plan.feature_dim, len(plan.columns), plan.block_rows)
    parts = {name: _chunk_bytes(name, dimensions) for name in schema.VIEW_ARRAYS}
    records = {
        str(block): dict(zip(schema.view_keys(1, block), parts.values(), strict=True)) for block in range(blocks)
    }
    return StoreSize(sum(parts.values()), len(parts)).times(blocks).plus(_manifest(records))


def samples_size(plan: schema.SplitPlan) -> StoreSize:
    """Return the size of the per-sample arrays of a split and their manifest."""
    rows, paths = plan.block_rows, plan.samples.sample_path
    records = {}
    for block in range(schema.block_count(len(paths), rows)):
        texts = sum(len(path.encode()) for path in paths[block * rows : (block + 1) * rows])
        sizes = [
            schema.COUNT_BYTES + rows * LENGTH_BYTES + texts + schema.CHECKSUM_BYTES
            if name == "sample_path"
            else _chunk_bytes(name, (1, 0, 0, rows))
            for name in schema.SAMPLE_ARRAYS
        ]
        records[str(block)] = dict(zip(schema.sample_keys(block), sizes, strict=True))
    parts = [size for record in records.values() for size in record.values()]
    return StoreSize(sum(parts), len(parts)).plus(_manifest(records))


def split_size(plan: schema.SplitPlan) -> StoreSize:
    """Return the size of a finished split without the ``zarr.json`` of its group and arrays."""
    return view_size(plan).times(len(plan.views)).plus(samples_size(plan))


def size_on_disk(place: PlaceLike) -> StoreSize:
    """Return the size of all files below a folder of this machine; zero at a URL."""
    folder = location(place)
    sizes = [file.size() for file in folder.files()] if folder.is_local else []
    return StoreSize(sum(sizes), len(sizes))


def _chunk_bytes(name: str, dimensions: Sequence[int]) -> int:
    """Return the bytes of a chunk of a numeric array, by (N, D, P, R)."""
    samples, features, parameters, rows = dimensions
    chunks = next(chunks for each, _, chunks in schema.layout(samples, 1, features, parameters, rows) if each == name)
    return schema.item_size(schema.ARRAYS[name]) * math.prod(chunks) + schema.CHECKSUM_BYTES


def _manifest(sizes: Mapping[str, Mapping[str, int]]) -> StoreSize:
    """Return the size of a unit's manifest, by the sizes of the parts of each block."""
    records = {
        block: {key: {"size": size, "xxh3_64": HASH} for key, size in record.items()} for block, record in sizes.items()
    }
    return StoreSize(len(json_bytes(records)), 1)
