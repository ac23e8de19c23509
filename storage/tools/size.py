"""Sizes of stores, computed from their layout before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from compress_ssl.storage import schema
from compress_ssl.storage.places.durable import json_bytes
from compress_ssl.storage.places.place import PlaceLike, location
from compress_ssl.storage.split import Split


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


def block_size(split: schema.SplitPlan | Split, view: int) -> StoreSize:
    """Return the size of one view of one block, with its patches if it has some, without records."""
    sizes = _chunk_bytes(split)
    parts = [size for unit in schema.units_of_view(view, split.patches) for size in _record(sizes, unit, 0).values()]
    return StoreSize(sum(parts), len(parts))


def views_size(plan: schema.SplitPlan) -> StoreSize:
    """Return the size of all views of a split, with their patches: blocks and manifests."""
    sizes, total = _chunk_bytes(plan), StoreSize()
    blocks = range(schema.block_count(len(plan.samples), plan.block_rows))
    with_patches = len(plan.patches.views) if plan.patches else 0
    for unit, count in (("1", len(plan.views)), (schema.patch_unit(1), with_patches)):  # all views are alike
        if count:
            total = total.plus(_unit_size({block: _record(sizes, unit, block) for block in blocks}).times(count))
    return total


def samples_size(plan: schema.SplitPlan) -> StoreSize:
    """Return the size of what a split is created with: the per-sample arrays, the basis of patches, their manifests."""
    rows, paths = plan.block_rows, plan.samples.sample_path
    fixed, unit = _chunk_bytes(plan), schema.SAMPLES_UNIT
    records = {}
    for block in range(schema.block_count(len(paths), rows)):
        texts = sum(len(path.encode()) for path in paths[block * rows : (block + 1) * rows])
        sizes = fixed | {"sample_path": schema.COUNT_BYTES + rows * schema.LENGTH_BYTES + texts + schema.CHECKSUM_BYTES}
        records[block] = _record(sizes, unit, block)
    basis = _unit_size({0: _record(fixed, schema.BASIS_UNIT, 0)}) if plan.patches else StoreSize()
    return _unit_size(records).plus(basis)


def size_on_disk(place: PlaceLike) -> StoreSize:
    """Return the size of all files below a folder of this machine; zero at a URL."""
    folder = location(place)
    sizes = [file.size() for file in folder.files()] if folder.is_local else []
    return StoreSize(sum(sizes), len(sizes))


def _chunk_bytes(split: schema.SplitPlan | Split) -> dict[str, int]:
    """Return the bytes of a chunk of each array; of texts, without them."""
    row = (split.feature_dim, len(split.columns), split.block_rows, split.patches)
    return {name: schema.chunk_bytes(schema.ARRAYS[name], chunks) for name, _, chunks in schema.layout(1, 1, *row)}


def _record(sizes: Mapping[str, int], unit: str, block: int) -> dict[str, int]:
    """Return the size of each part of a block, by key."""
    return {key: sizes[key.partition("/")[0]] for key in schema.unit_keys(unit, block)}


def _unit_size(sizes: Mapping[int, Mapping[str, int]]) -> StoreSize:
    """Return the size of a unit and its manifest, by the sizes of the parts of each block."""
    records = {str(block): {key: _part(size) for key, size in record.items()} for block, record in sizes.items()}
    parts = [size for record in sizes.values() for size in record.values()]
    return StoreSize(sum(parts) + len(json_bytes(records)), len(parts) + 1)


def _part(size: int) -> schema.Part:
    """Return a part of this size whose hashes are unknown."""
    part = schema.Part(size=size, xxh3_64="0" * schema.HASH_DIGITS)
    if pieces := schema.piece_count(size):
        part["pieces"] = "0" * schema.HASH_DIGITS * pieces
    return part
