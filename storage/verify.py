"""Checking a store's bytes against its commit records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from storage.commits import SAMPLES_UNIT, Part, checksum, read_records
from storage.errors import StoreDamagedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.reader import EmbeddingStore
    from storage.remote import Place


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


def _units(store: EmbeddingStore) -> Iterator[tuple[str, str, str]]:
    for split in store.split_names:
        yield split, SAMPLES_UNIT, "the samples"
        yield from ((split, str(view), f"view {view}") for view in range(len(store[split].views)))


def verify_store(store: EmbeddingStore) -> Verification:
    """Read every committed part and compare its size and XXH3-64 with its record."""
    parts = total = 0
    damaged, missing = [], []
    for split_name, unit, what in _units(store):
        split = store[split_name]
        try:
            records = read_records(split.path, unit)
        except StoreDamagedError as error:
            damaged.append(str(error))
            continue
        lacking = set(range(split.block_count)) - records.keys()
        if lacking:
            done = split.block_count - len(lacking)
            missing.append(f"{split_name}, {what}: {done} of {split.block_count} blocks are committed")
        for record in (record for block, record in records.items() if block < split.block_count):
            for key, part in record.items():
                parts += 1
                total += part["size"]
                fault = _fault(split.path / key, part)
                if fault:
                    damaged.append(f"'{split.path / key}' {fault}")
    return Verification(parts, total, damaged, missing)


def _fault(path: Place, part: Part) -> str | None:
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != part["size"]:
        return f"has {path.stat().st_size} bytes instead of {part['size']}"
    try:
        found = checksum(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if found == part["xxh3_64"] else "has other content than was committed"
