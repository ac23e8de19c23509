"""The format on the disk: the one place that names arrays, types, chunks, attributes and commit records.

Letters: V views, N samples, D features, P augmentation parameters, R rows of a block; G x G positions of a grid of
patches, K components of a patch, C channels of the map that the patches are made from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

FORMAT_NAME = "compress-ssl-embeddings"

CHUNK_BYTES = 16 * 2**20  # largest chunk of one view of one block: reads fastest (docs/store-format.md)

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

PATCHES = "patches"
"""Attribute of a split that has patches (``PatchInfo``)."""

SAMPLES_UNIT = "samples"
"""The unit of the per-sample arrays. A unit is what is committed block by block.

The others are the views (``"3"``), the patches of views (``"patches-3"``) and the basis of the patches.
"""

BASIS_UNIT = "patch-basis"
"""The unit, of one block, of the basis of a split's patches."""


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
PATCH_ARRAYS: dict[str, ArraySpec] = {
    "patches": ArraySpec(("view", "sample", "position", "component"), "int8", 0),
    "patch_scale": ArraySpec(("view", "sample", "position"), "float16", np.nan),
}
BASIS_ARRAYS: dict[str, ArraySpec] = {
    "patch_mean": ArraySpec(("channel",), "float32", np.nan),
    "patch_basis": ArraySpec(("component", "channel"), "float32", np.nan),
}
ARRAYS = VIEW_ARRAYS | SAMPLE_ARRAYS | PATCH_ARRAYS | BASIS_ARRAYS


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


@dataclass(frozen=True, kw_only=True)
class PatchInfo:
    """The patches of a split: how they were made, and of which views. The attribute ``patches`` holds these fields."""

    grid: int  # G: the teacher's map is pooled to G x G
    components: int  # K: of the principal components of a pooled map's positions
    channels: int  # C: of the teacher's map
    views: tuple[int, ...]  # that have patches, ascending
    explained_variance: float  # share of the variance that the components hold, in [0, 1]
    fitted_on: int  # number of images that the components were computed from
    reconstruction_cosine: float  # of a position's channels and what its codes give, mean over a sample

    @classmethod
    def of(cls, attribute: Mapping[str, Any]) -> PatchInfo:
        """Return what an attribute ``patches`` says."""
        known = {field.name: attribute[field.name] for field in fields(PatchInfo)}
        return PatchInfo(**known | {"views": tuple(known["views"])})

    @property
    def positions(self) -> int:
        """G * G."""
        return self.grid**2

    def attribute(self) -> dict[str, Any]:
        """Return the attribute ``patches``."""
        values = {field.name: getattr(self, field.name) for field in fields(PatchInfo)}
        return values | {"views": list(self.views)}


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchPlan(PatchInfo):
    """Patches to be written, and their basis."""

    mean: npt.NDArray[np.float32]  # (C,) of the positions of pooled maps
    basis: npt.NDArray[np.float32]  # (K, C) orthonormal rows: the principal components


@dataclass(frozen=True)
class SplitPlan:
    """Everything needed to create a split."""

    samples: Samples
    folder: str  # the split's folder, relative to the dataset's root
    views: list[dict[str, Any]]  # Policy, seed and size of each view; view 0 is the evaluation view
    columns: tuple[str, ...]  # names of the P augmentation parameters
    feature_dim: int
    block_rows: int
    patches: PatchPlan | None = None


def default_block_rows(sample_count: int, feature_dim: int, patch_values: int = 0) -> int:
    """Return the rows of a block: at most 16 MiB per view and array, fewer if that would give less than 32 blocks.

    At least ``MIN_BLOCK_ROWS``, unless 16 MiB are fewer. A power of two, which batches of the usual sizes fill, unless
    all samples fit in one block.

    Args:
        patch_values: G * G * K of the patches of one view of an image; 0 without patches.
    """
    by_size = CHUNK_BYTES // max(2 * feature_dim, patch_values)
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


def layout(
    samples: int, views: int, features: int, parameters: int, block_rows: int, patches: PatchInfo | None = None
) -> list[tuple[str, Shape, Shape]]:
    """Return name, shape and chunk shape of every array of a split."""
    sizes = {"view": views, "sample": samples, "feature": features, "parameter": parameters, "side": 2}
    if patches:
        sizes |= {"position": patches.positions, "component": patches.components, "channel": patches.channels}
    chunk = sizes | {"view": 1, "sample": block_rows}
    return [
        (name, tuple(map(sizes.__getitem__, spec.dimensions)), tuple(map(chunk.__getitem__, spec.dimensions)))
        for name, spec in split_arrays(has_patches=patches is not None).items()
    ]


def split_arrays(*, has_patches: bool) -> dict[str, ArraySpec]:
    """Return the arrays of a split."""
    return ARRAYS if has_patches else VIEW_ARRAYS | SAMPLE_ARRAYS


def piece_count(size: int) -> int:
    """Return how many pieces of a part of this size have hashes: none if the whole is no larger than one."""
    return -(-size // PIECE_BYTES) if size > PIECE_BYTES else 0


def patch_unit(view: int) -> str:
    """Return the unit of the patches of a view."""
    return f"patches-{view}"


def units_of_view(view: int, patches: PatchInfo | None) -> list[str]:
    """Return the units of a view: its own, and that of its patches if it has some."""
    return [str(view), *([patch_unit(view)] if patches and view in patches.views else [])]


def unit_view(unit: str) -> int | None:
    """Return the view of a unit; None if it is of no view."""
    return None if unit in (SAMPLES_UNIT, BASIS_UNIT) else int(unit.removeprefix("patches-"))


def unit_name(unit: str) -> str:
    """Return a unit's name for a sentence."""
    known = {SAMPLES_UNIT: "the samples", BASIS_UNIT: "the patch basis"}
    return known.get(unit) or ("view " if unit.isdecimal() else "the patch grid of view ") + str(unit_view(unit))


def unit_arrays(unit: str) -> dict[str, ArraySpec]:
    """Return the arrays that a unit is part of."""
    known = {SAMPLES_UNIT: SAMPLE_ARRAYS, BASIS_UNIT: BASIS_ARRAYS}
    return known.get(unit) or (VIEW_ARRAYS if unit.isdecimal() else PATCH_ARRAYS)


def unit_keys(unit: str, block: int) -> list[str]:
    """Return the keys of the objects that hold one block of a unit, relative to the split."""
    return [part_key(name, unit, block) for name in unit_arrays(unit)]


def part_key(name: str, unit: str, block: int) -> str:
    """Return the key of the object that holds one block of an array, relative to the split."""
    place = {"view": unit_view(unit), "sample": block}
    return "/".join([name, "c", *(str(place.get(dimension, 0)) for dimension in ARRAYS[name].dimensions)])
