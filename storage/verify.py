"""Checking a store's bytes against its commit records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from storage.commits import SAMPLES_UNIT, checksum, read_records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.reader import EmbeddingStore


@dataclass(frozen=True)
class Verification:
    """What was found: how much was read, which parts are damaged, which blocks were never committed."""

    parts: int
    bytes: int
    damaged: list[str] = field(default_factory=list)
    """One sentence for each part that is missing or has other bytes than were committed."""
    missing: list[str] = field(default_factory=list)
    """One sentence for each view that is not complete."""

    @property
    def ok(self) -> bool:
        """True when the store is complete and every byte is as committed."""
        return not self.damaged and not self.missing


def _units(store: EmbeddingStore) -> Iterator[tuple[str, str]]:
    for split in store.split_names:
        yield split, SAMPLES_UNIT
        yield from ((split, str(view)) for view in range(len(store[split].views)))


def verify_store(store: EmbeddingStore) -> Verification:
    """Read every committed part and compare its size and XXH3-64 with its record."""
    parts = total = 0
    damaged, missing = [], []
    for split_name, unit in _units(store):
        split = store[split_name]
        records = read_records(split.path, unit)
        if len(records) < split.block_count:
            missing.append(f"{split_name}, view {unit}: {len(records)} of {split.block_count} blocks are committed")
        for record in records.values():
            for key, part in record.items():
                path = split.path / key
                parts += 1
                total += part["size"]
                if not path.is_file():
                    damaged.append(f"'{path}' is missing")
                elif path.stat().st_size != part["size"]:
                    damaged.append(f"'{path}' has {path.stat().st_size} bytes instead of {part['size']}")
                elif checksum(path) != part["xxh3_64"]:
                    damaged.append(f"'{path}' has other content than was committed")
    return Verification(parts, total, damaged, missing)
