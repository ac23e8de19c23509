"""Format version 1 on the disk: the one place that names arrays, types, chunks, attributes and commit records.

Letters: V views, N samples, D features, P augmentation parameters, R rows of a block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

FORMAT_NAME = "compress-ssl-embeddings"
FORMAT_VERSION = 1

CHUNK_BYTES = 16 * 2**20  # size of one view of one block that reads fastest (docs/store-format.md)

MIN_BLOCKS = 32  # small datasets get smaller blocks, so that a run can be resumed and shared by workers
MIN_BLOCK_ROWS = 128  # but hardly smaller than a forward pass, which ends with its block

PIECE_BYTES = 2**18  # a larger part has hashes of its pieces too, so that a reader of some rows need not read all of it

HASH_DIGITS = 16  # of an XXH3-64 in hexadecimal

CHECKSUM_BYTES = 4  # at the end of each chunk

COUNT_BYTES = 4  # at the beginning of a chunk of texts: their number
LENGTH_BYTES = 4  # of the length before each text in it

EVALUATION_VIEW = 0

ROOM = "room"
"""Attribute of a split while a growth is prepared: the views and samples that its arrays may have already."""

GROWING = "growing"
"""Attribute of a root until a growth is finished: the attributes its splits will have (storage/tools/growth.py)."""

GROWTH = "growth"
"""Attribute of a root that has grown or is growing: what was asked for the last time."""

SAMPLES_UNIT = "samples"
"""The unit of the per-sample arrays. A unit is what is committed block by block; the others are the views."""


class Part(TypedDict):
    """One object of a block: its size in bytes and the XXH3-64 of its bytes, in hexadecimal."""

    size: int
    xxh3_64: str
    pieces: NotRequired[str]
    """XXH3-64s of its pieces of ``PIECE_BYTES`` bytes, the last of which may be shorter, one behind the other.

    Small parts have none, nor have those that an earlier release wrote.
    """


Record = dict[str, Part]  # the parts of one block, by key relative to the split


class Status(IntEnum):
    """State of one sample."""

    GOOD = 0
    BAD_IMAGE = 1
    PADDING = 2


@dataclass(frozen=True)
class ArraySpec:
    """One array of a split: its dimension names, dtype and fill value."""

    dimensions: tuple[str, ...]
    dtype: str
    fill_value: Any


VIEW_ARRAYS: dict[str, ArraySpec] = {
    "embeddings": ArraySpec(("view", "sample", "feature"), "float16", np.nan),
    "augmentation": ArraySpec(("view", "sample", "parameter"), "float32", np.nan),
}
SAMPLE_ARRAYS: dict[str, ArraySpec] = {
    "sample_path": ArraySpec(("sample",), "string", ""),
    "label": ArraySpec(("sample",), "int32", -1),
    "image_size": ArraySpec(("sample", "side"), "int32", 0),
    "content_hash": ArraySpec(("sample",), "uint64", 0),
    "status": ArraySpec(("sample",), "uint8", int(Status.PADDING)),
}
ARRAYS = VIEW_ARRAYS | SAMPLE_ARRAYS


@dataclass(frozen=True)
class Samples:
    """The images of a split, in store order."""

    sample_path: list[str]  # N paths relative to the split's folder, ``/`` between parts
    label: npt.NDArray[np.int32]  # (N,) class numbers; -1 where there is none
    image_size: npt.NDArray[np.int32]  # (N, 2) height and width in pixels
    content_hash: npt.NDArray[np.uint64]  # (N,) XXH3-64 of each file's bytes
    status: npt.NDArray[np.uint8]  # (N,) a ``Status`` for each sample
    class_names: tuple[str, ...] = ()  # name of each class number; empty if there are no labels

    def __len__(self) -> int:
        return len(self.sample_path)

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        """(N,) True where the image could be read."""
        return np.equal(self.status, Status.GOOD)

    def take(self, rows: npt.NDArray[np.integer]) -> Samples:
        """Return the samples of these rows, in this order."""
        return Samples(
            sample_path=[self.sample_path[row] for row in rows],
            label=self.label[rows],
            image_size=self.image_size[rows],
            content_hash=self.content_hash[rows],
            status=self.status[rows],
            class_names=self.class_names,
        )


@dataclass(frozen=True)
class SplitPlan:
    """Everything needed to create a split."""

    samples: Samples
    folder: str  # the split's folder, relative to the dataset's root
    views: list[dict[str, Any]]  # Policy, seed and size of each view; view 0 is the evaluation view
    columns: tuple[str, ...]  # names of the P augmentation parameters
    feature_dim: int
    block_rows: int


def default_block_rows(sample_count: int, feature_dim: int) -> int:
    """Return the rows of a block: at most 16 MiB of float16 per view, fewer if that would give less than 32 blocks.

    At least ``MIN_BLOCK_ROWS``, unless 16 MiB are fewer. A power of two, which batches of the usual sizes fill, unless
    all samples fit in one block.
    """
    by_size = CHUNK_BYTES // (2 * feature_dim)
    by_count = max(MIN_BLOCK_ROWS, sample_count // MIN_BLOCKS)
    power_of_two = 1 << (max(1, min(by_size, by_count)).bit_length() - 1)
    return max(1, min(power_of_two, sample_count))


def block_count(sample_count: int, block_rows: int) -> int:
    """Return the number of blocks that hold ``sample_count`` rows."""
    return math.ceil(sample_count / block_rows)


Shape = tuple[int, ...]


def stored_type(spec: ArraySpec) -> np.dtype[Any]:
    """Return the type of the values of an array of numbers as they are stored."""
    return np.dtype(spec.dtype).newbyteorder("<")


def chunk_bytes(spec: ArraySpec, chunk: Shape) -> int:
    """Return the bytes of a chunk of this shape; of texts, whose lengths vary, without them."""
    item = 0 if spec.dtype == "string" else stored_type(spec).itemsize
    return item * math.prod(chunk) + CHECKSUM_BYTES


def layout(samples: int, views: int, features: int, parameters: int, block_rows: int) -> list[tuple[str, Shape, Shape]]:
    """Return name, shape and chunk shape of every array of a split."""
    rows = block_rows
    sizes = {
        "embeddings": ((views, samples, features), (1, rows, features)),
        "augmentation": ((views, samples, parameters), (1, rows, parameters)),
        "image_size": ((samples, 2), (rows, 2)),
    }
    return [(name, *sizes.get(name, ((samples,), (rows,)))) for name in ARRAYS]


def piece_count(size: int) -> int:
    """Return how many pieces of a part of this size have hashes: none if the whole is no larger than one."""
    return -(-size // PIECE_BYTES) if size > PIECE_BYTES else 0


def unit_name(unit: str) -> str:
    """Return a unit's name for a sentence."""
    return "the samples" if unit == SAMPLES_UNIT else f"view {unit}"


def unit_keys(unit: str, block: int) -> list[str]:
    """Return the keys of the objects that hold one block of a unit, relative to the split."""
    return [part_key(name, unit, block) for name in (SAMPLE_ARRAYS if unit == SAMPLES_UNIT else VIEW_ARRAYS)]


def part_key(name: str, unit: str, block: int) -> str:
    """Return the key of the object that holds one block of an array, relative to the split."""
    if unit == SAMPLES_UNIT:
        return f"{name}/c/{block}" + "/0" * (len(ARRAYS[name].dimensions) - 1)
    return f"{name}/c/{int(unit)}/{block}/0"
