"""Verification of a store's bytes against its commit records, and of the values in them, block by block."""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from compress_ssl.storage.commits import is_part
from compress_ssl.storage.errors import StoreDamagedError, StoreUnsafeError
from compress_ssl.storage.parameters import COLUMNS, KNOWN_COLUMNS, impossible
from compress_ssl.storage.patches import wrong_basis, wrong_patches
from compress_ssl.storage.places.place import Place
from compress_ssl.storage.reader import EmbeddingStore
from compress_ssl.storage.schema import (
    ARRAYS,
    BASIS_ARRAYS,
    BASIS_UNIT,
    SAMPLES_UNIT,
    Part,
    Record,
    Shape,
    Status,
    chunk_bytes,
    stored_type,
    unit_arrays,
    unit_name,
    unit_view,
)
from compress_ssl.storage.values import Fault, not_finite, wrong_sample


@dataclass(frozen=True)
class Verification:
    """How much was read, which parts are damaged, which blocks were never committed."""

    parts: int
    bytes: int
    damaged: list[str] = field(default_factory=list)
    """One sentence for each part that is missing, has other bytes than were committed, or a value that none has."""
    missing: list[str] = field(default_factory=list)  # one sentence for each view that is not complete

    @property
    def ok(self) -> bool:
        """True when the store is complete, and all that was read is as committed and possible."""
        return not self.damaged and not self.missing


class CommittedBlock(NamedTuple):
    """One block of a unit, and what the values in it depend on."""

    split: Place
    unit: str
    number: int
    first: int  # row of the split
    record: Record
    samples: Record  # the parts of the same block's samples
    chunks: dict[str, Shape]  # by array name
    description: dict[str, Any]  # of the view; empty for what is of none
    columns: tuple[str, ...]
    rows: int  # of the split
    classes: int


class CheckedBlock(NamedTuple):
    """Result of the verification of one block: parts and bytes read, a sentence for each part that is wrong."""

    parts: int
    bytes: int
    damaged: list[str]


def verify_store(store: EmbeddingStore, sample: int | None = None, seed: int | None = None) -> Verification:
    """Read committed parts, compare their sizes and XXH3-64 with their records, and check their values.

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
    for split in store.splits:
        chunks, samples = split.chunks, dict[int, Record]()
        for unit in split.units:  # the samples are the first
            try:
                records = split.committed(unit)
            except StoreDamagedError as error:
                damaged.append(str(error))
                continue
            if len(records) < (count := split.unit_blocks(unit)):
                missing.append(f"{split.name}, {unit_name(unit)}: {len(records)} of {count} blocks are committed")
            samples = samples or records
            blocks += [
                CommittedBlock(
                    split=split.path,
                    unit=unit,
                    number=number,
                    first=number * split.block_rows,
                    record=record,
                    samples=samples.get(number, {}),
                    chunks=chunks,
                    description={} if (view := unit_view(unit)) is None else split.views[view],
                    columns=split.columns,
                    rows=len(split),
                    classes=len(split.class_names),
                )
                for number, record in records.items()
            ]
    if sample is not None and sample < len(blocks):
        blocks = random.Random(seed).sample(blocks, sample)
    return blocks, Verification(0, 0, damaged, missing)


def verify_block(block: CommittedBlock) -> CheckedBlock:
    """Read the parts of one block."""
    damaged: list[str] = []
    arrays: dict[str, npt.NDArray[Any]] = {}
    for key, part in block.record.items():
        try:
            content, fault = _read(block.split.inside(key), part)
        except StoreUnsafeError as error:
            damaged.append(str(error))
            continue
        if fault:
            damaged.append(f"'{block.split / key}' {fault}")
        else:
            arrays |= _decoded(block, key, content)
    if not damaged and (fault := _impossible(block, arrays)):
        damaged.append(f"{fault}; get the store from whoever made it, or embed again")
    return CheckedBlock(len(block.record), sum(part["size"] for part in block.record.values()), damaged)


def _read(path: Place, part: Part) -> tuple[bytes, str]:
    """Return the bytes of a part, and what is wrong with them; wrong ones are read a second time."""
    content, fault = b"", ""
    for _ in range(2):
        try:
            if not path.is_file():
                return b"", "is missing"
            if (size := path.size()) != part["size"]:
                fault = f"has {size} bytes instead of {part['size']}"
            elif is_part(content := path.read_bytes(), part):
                return content, ""
            else:
                fault = "has other content than was committed"
        except OSError as error:
            fault = f"cannot be read ({error.strerror})"
    return b"", fault


def _decoded(block: CommittedBlock, key: str, content: bytes) -> dict[str, npt.NDArray[Any]]:
    """Return a part's array by name, without its view; none for texts, or if the part is not as large as a chunk."""
    name = key.partition("/")[0]
    spec, shape = ARRAYS[name], block.chunks[name]
    if spec.dtype == "string" or len(content) != chunk_bytes(spec, shape):
        return {}
    values = np.frombuffer(content, stored_type(spec), math.prod(shape)).reshape(shape)
    return {name: values[0] if "view" in spec.dimensions else values}


NEEDED = {"embeddings": {"status", "image_size"}, "patches": {"status"}}
"""Per-sample arrays that the values of an array depend on."""


def _impossible(block: CommittedBlock, arrays: dict[str, npt.NDArray[Any]]) -> str:
    """Return a sentence about the first row of a block with values that no store has; empty if there is none."""
    own = unit_arrays(block.unit).keys()
    needed = set[str]().union(*(NEEDED.get(name, ()) for name in own))
    for key, part in block.samples.items():
        if key.partition("/")[0] in needed:
            content, unreadable = _read(block.split / key, part)
            arrays |= {} if unreadable else _decoded(block, key, content)
    if not (own | needed) - {"sample_path"} <= arrays.keys():
        return ""  # another part is damaged, which is said elsewhere
    where = f"of split {block.split.name} of '{block.split.parent}'"
    if block.unit == BASIS_UNIT:
        fault = wrong_basis(*map(arrays.__getitem__, BASIS_ARRAYS))
        return f"The patch basis {where} {fault}" if fault else ""
    if (found := _fault(block, arrays)) is None:
        return ""
    of_view = "" if block.unit == SAMPLES_UNIT else f"of view {unit_view(block.unit)} "
    return f"Row {block.first + found[0]} {of_view}{where} {found[1]}"


def _fault(block: CommittedBlock, arrays: dict[str, npt.NDArray[Any]]) -> Fault:
    """Return the first row with values that no store has, and what is wrong with it."""
    status = arrays["status"]
    if block.unit == SAMPLES_UNIT:
        return wrong_sample(status, arrays["label"], arrays["image_size"], block.classes)
    if "patches" in arrays:
        return wrong_patches(arrays["patches"], arrays["patch_scale"], status == Status.GOOD)
    fault = not_finite(arrays["embeddings"], status == Status.GOOD)
    if fault is None and block.columns in KNOWN_COLUMNS:
        # Readers know whether second images are good; here it is known that there are such rows.
        rows = None if block.columns == COLUMNS else np.broadcast_to(np.True_, block.rows)
        fault = impossible(arrays["augmentation"], status, arrays["image_size"], block.description, rows)
    return fault


def combine(from_records: Verification, blocks: Iterable[CheckedBlock]) -> Verification:
    """Return the verification of a store from that of its records and those of its blocks."""
    checked = list(blocks)
    damaged = [*from_records.damaged, *(sentence for block in checked for sentence in block.damaged)]
    total = sum(block.bytes for block in checked)
    return Verification(sum(block.parts for block in checked), total, damaged, from_records.missing)
