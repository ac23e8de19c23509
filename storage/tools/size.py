"""How large a store will be: what follows from its layout, before anything is written.

Letters: N samples, V views, D features, P parameters, R rows of a block.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from compress_ssl.storage import schema
from compress_ssl.storage.safety import CHECKSUM_BYTES, COUNT_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compress_ssl.storage.places.remote import Place

LENGTH_BYTES = 4
"""Before each text in a chunk of texts."""

HASH = "0" * 16
"""As long as a record's."""


class StoreSize(NamedTuple):
    """Bytes and files (objects, at a URL)."""

    bytes: int = 0
    files: int = 0

    def plus(self, other: StoreSize) -> StoreSize:
        """Both together."""
        return StoreSize(self.bytes + other.bytes, self.files + other.files)

    def times(self, count: int) -> StoreSize:
        """So many of it."""
        return StoreSize(count * self.bytes, count * self.files)


def block_size(feature_dim: int, parameters: int, block_rows: int) -> StoreSize:
    """One view of one block, without its record."""
    sizes = [_chunk_bytes(name, (1, feature_dim, parameters, block_rows)) for name in schema.VIEW_ARRAYS]
    return StoreSize(sum(sizes), len(sizes))


def view_size(plan: schema.SplitPlan) -> StoreSize:
    """One view of a split: its blocks and their manifest."""
    blocks = schema.block_count(len(plan.samples), plan.block_rows)
    dimensions = (1, plan.feature_dim, len(plan.columns), plan.block_rows)
    parts = {name: _chunk_bytes(name, dimensions) for name in schema.VIEW_ARRAYS}
    records = {
        str(block): dict(zip(schema.view_keys(1, block), parts.values(), strict=True)) for block in range(blocks)
    }
    return StoreSize(sum(parts.values()), len(parts)).times(blocks).plus(_manifest(records))


def samples_size(plan: schema.SplitPlan) -> StoreSize:
    """The per-sample arrays of a split and their manifest."""
    rows, paths = plan.block_rows, plan.samples.sample_path
    records = {}
    for block in range(schema.block_count(len(paths), rows)):
        texts = sum(len(path.encode()) for path in paths[block * rows : (block + 1) * rows])
        sizes = [
            COUNT_BYTES + rows * LENGTH_BYTES + texts + CHECKSUM_BYTES
            if name == "sample_path"
            else _chunk_bytes(name, (1, 0, 0, rows))
            for name in schema.SAMPLE_ARRAYS
        ]
        records[str(block)] = dict(zip(schema.sample_keys(block), sizes, strict=True))
    parts = [size for record in records.values() for size in record.values()]
    return StoreSize(sum(parts), len(parts)).plus(_manifest(records))


def split_size(plan: schema.SplitPlan) -> StoreSize:
    """All of a finished split but the ``zarr.json`` of its group and arrays."""
    return view_size(plan).times(len(plan.views)).plus(samples_size(plan))


def size_on_disk(place: Place) -> StoreSize:
    """What there is below a folder of this machine; nothing at a URL."""
    files = [file.stat().st_size for file in place.rglob("*") if file.is_file()] if isinstance(place, Path) else []
    return StoreSize(sum(files), len(files))


def disk_left(place: Place) -> int | None:
    """Bytes that may still be written where a store is, or is to be; None at a URL, where nobody knows."""
    if not isinstance(place, Path):
        return None
    return shutil.disk_usage(existing_folder(place)).free


def existing_folder(place: Path) -> Path:
    """The place's folder, or the nearest above that exists."""
    return next(folder for folder in place.absolute().parents if folder.is_dir())


def _chunk_bytes(name: str, dimensions: Sequence[int]) -> int:
    """Bytes of a chunk of a numeric array, by (N, D, P, R)."""
    samples, features, parameters, rows = dimensions
    spec = (schema.VIEW_ARRAYS | schema.SAMPLE_ARRAYS)[name]
    chunks = next(chunks for each, _, chunks in schema.layout(samples, 1, features, parameters, rows) if each == name)
    return schema.item_size(spec) * math.prod(chunks) + CHECKSUM_BYTES


def _manifest(sizes: dict[str, dict[str, int]]) -> StoreSize:
    """The file of a unit's commit records."""
    records = {
        block: {key: {"size": size, "xxh3_64": HASH} for key, size in record.items()} for block, record in sizes.items()
    }
    return StoreSize(len(json.dumps(records, indent=1, sort_keys=True)) + 1, 1)
