"""Verification of a store's bytes against its commit records, block by block."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from compress_ssl.storage.commits import checksum, read_records
from compress_ssl.storage.errors import StoreDamagedError
from compress_ssl.storage.places.place import Place
from compress_ssl.storage.reader import EmbeddingStore
from compress_ssl.storage.schema import Record, unit_name


@dataclass(frozen=True)
class Verification:
    """How much was read, which parts are damaged, which blocks were never committed."""

    parts: int
    bytes: int
    damaged: list[str] = field(default_factory=list)
    """One sentence for each part that is missing or has other bytes than were committed."""
    missing: list[str] = field(default_factory=list)  # one sentence for each view that is not complete

    @property
    def ok(self) -> bool:
        """True when the store is complete and every byte that was read is as committed."""
        return not self.damaged and not self.missing


class CommittedBlock(NamedTuple):
    """One block of a unit."""

    split: Place
    record: Record


class CheckedBlock(NamedTuple):
    """Result of the verification of one block: parts and bytes read, a sentence for each damaged part."""

    parts: int
    bytes: int
    damaged: list[str]


def verify_store(store: EmbeddingStore, sample: int | None = None, seed: int | None = None) -> Verification:
    """Read committed parts and compare their sizes and XXH3-64 with their records.

    Args:
        sample: Read only so many blocks (of a view, or of the per-sample arrays), drawn at random; all of them if not
            given.
        seed: Seed of the draw; different blocks every time if not given.
    """
    blocks, from_records = blocks_to_verify(store, sample, seed)
    return combine(from_records, map(verify_block, blocks))


def blocks_to_verify(
    store: EmbeddingStore, sample: int | None = None, seed: int | None = None
) -> tuple[list[CommittedBlock], Verification]:
    """Return the blocks whose bytes are to be read, and what the records alone show. Parameters as ``verify_store``."""
    blocks: list[CommittedBlock] = []
    damaged, missing = [], []
    for split, unit in store.units:
        try:
            records = read_records(split.path, unit)
        except StoreDamagedError as error:
            damaged.append(str(error))
            continue
        known = [record for block, record in records.items() if 0 <= block < split.block_count]
        if len(known) < split.block_count:
            what = f"{split.name}, {unit_name(unit)}"
            missing.append(f"{what}: {len(known)} of {split.block_count} blocks are committed")
        blocks += [CommittedBlock(split.path, record) for record in known]
    if sample is not None and sample < len(blocks):
        blocks = random.Random(seed).sample(blocks, sample)
    return blocks, Verification(0, 0, damaged, missing)


def verify_block(block: CommittedBlock) -> CheckedBlock:
    """Read the parts of one block."""
    damaged = []
    for key, part in block.record.items():
        path, fault = block.split / key, ""
        try:
            if not path.is_file():
                fault = "is missing"
            elif path.size() != part["size"]:
                fault = f"has {path.size()} bytes instead of {part['size']}"
            elif checksum(path) != part["xxh3_64"]:
                fault = "has other content than was committed"
        except OSError as error:
            fault = f"cannot be read ({error.strerror})"
        if fault:
            damaged.append(f"'{path}' {fault}")
    return CheckedBlock(len(block.record), sum(part["size"] for part in block.record.values()), damaged)


def combine(from_records: Verification, blocks: Iterable[CheckedBlock]) -> Verification:
    """Return the verification of a store from that of its records and those of its blocks."""
    checked = list(blocks)
    damaged = [*from_records.damaged, *(sentence for block in checked for sentence in block.damaged)]
    total = sum(block.bytes for block in checked)
    return Verification(sum(block.parts for block in checked), total, damaged, from_records.missing)
