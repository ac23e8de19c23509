"""Sizes of stores, computed from their layout before anything is written.

Letters: N samples, D features, P parameters, R rows of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from compress_ssl.storage import schema
from compress_ssl.storage.places.durable import json_bytes
from compress_ssl.storage.places.place import PlaceLike, location


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
    sizes = _chunk_bytes(feature_dim, parameters, block_rows)
    return StoreSize(sum(sizes[name] for name in schema.VIEW_ARRAYS), len(schema.VIEW_ARRAYS))


def view_size(plan: schema.SplitPlan) -> StoreSize:
    """Return the size of one view of a split: its blocks and their manifest."""
    row = (plan.feature_dim, len(plan.columns), plan.block_rows)
    sizes = _chunk_bytes(*row)
    blocks = range(schema.block_count(len(plan.samples), plan.block_rows))
    records = {block: {key: sizes[key.partition("/")[0]] for key in schema.unit_keys("1", block)} for block in blocks}
    return block_size(*row).times(len(blocks)).plus(_manifest(records))


def samples_size(plan: schema.SplitPlan) -> StoreSize:
    """Return the size of the per-sample arrays of a split and their manifest."""
    rows, paths = plan.block_rows, plan.samples.sample_path
    fixed = _chunk_bytes(0, 0, rows)
    records = {}
    for block in range(schema.block_count(len(paths), rows)):
        texts = sum(len(path.encode()) for path in paths[block * rows : (block + 1) * rows])
        sizes = fixed | {"sample_path": schema.COUNT_BYTES + rows * schema.LENGTH_BYTES + texts + schema.CHECKSUM_BYTES}
        records[block] = {key: sizes[key.partition("/")[0]] for key in schema.unit_keys(schema.SAMPLES_UNIT, block)}
    parts = [size for record in records.values() for size in record.values()]
    return StoreSize(sum(parts), len(parts)).plus(_manifest(records))


def size_on_disk(place: PlaceLike) -> StoreSize:
    """Return the size of all files below a folder of this machine; zero at a URL."""
    folder = location(place)
    sizes = [file.size() for file in folder.files()] if folder.is_local else []
    return StoreSize(sum(sizes), len(sizes))


def _chunk_bytes(features: int, parameters: int, rows: int) -> dict[str, int]:
    """Return the bytes of a chunk of each array; of texts, without them."""
    return {
        name: schema.chunk_bytes(schema.ARRAYS[name], chunks)
        for name, _, chunks in schema.layout(1, 1, features, parameters, rows)
    }


def _manifest(sizes: Mapping[int, Mapping[str, int]]) -> StoreSize:
    """Return the size of a unit's manifest, by the sizes of the parts of each block."""
    records = {str(block): {key: _part(size) for key, size in record.items()} for block, record in sizes.items()}
    return StoreSize(len(json_bytes(records)), 1)


def _part(size: int) -> schema.Part:
    """Return a part of this size whose hashes are unknown."""
    part = schema.Part(size=size, xxh3_64="0" * schema.HASH_DIGITS)
    if pieces := schema.piece_count(size):
        part["pieces"] = "0" * schema.HASH_DIGITS * pieces
    return part
