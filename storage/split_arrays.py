"""The arrays of one split, of which only what is committed is read; ``split`` says what is in them.

Letters: N samples, R rows of a block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from compress_ssl.storage import schema
from compress_ssl.storage.attributes import split_attributes
from compress_ssl.storage.chunks import ChunkReader, Look
from compress_ssl.storage.commits import check_sizes, read_records
from compress_ssl.storage.errors import UNREADABLE, StoreDamagedError, StoreError, StoreIncompleteError
from compress_ssl.storage.places.names import check_inside
from compress_ssl.storage.places.parallel import map_threads
from compress_ssl.storage.places.place import Place
from compress_ssl.storage.safety import check_committed_sizes

Records = Mapping[int, schema.Record]  # by block

READS_AT_ONCE, REQUESTS_AT_ONCE = 4, 16  # chunks read side by side from a disk, from a server


class SplitArrays:
    """Arrays of a split, and the records of what is committed of them."""

    def __init__(self, path: Place, reader: ChunkReader, group: zarr.Group) -> None:
        self.path = path
        self.name = path.name
        self._chunk_reader = reader
        self._threads = READS_AT_ONCE if path.is_local else REQUESTS_AT_ONCE
        self._records: dict[str, dict[int, schema.Record]] = {}  # by unit, as they were read last
        self.attributes: dict[str, Any] = split_attributes(path, dict(group.attrs))
        attributes = self.attributes
        self.folder: str = attributes["folder"]  # the split's folder, relative to the dataset's root
        check_inside(f"'{path}/zarr.json'", [self.folder])
        self.views: list[dict[str, Any]] = attributes["views"]
        """Policy, seed and size of each view; view 0 is the evaluation view."""
        self.class_names: tuple[str, ...] = tuple(attributes["class_names"])
        self.block_rows: int = attributes["block_rows"]
        self.patches = _patches_in(path, attributes)
        """What the patches are, and which views have some; None without patches."""
        self._arrays: dict[str, zarr.Array[Any]] = {}
        for name in schema.split_arrays(has_patches=self.patches is not None):
            try:
                array = group[name]
            except StoreError:
                raise
            except (*UNREADABLE, OSError) as error:
                raise StoreDamagedError(
                    f"'{path / name}' is missing or its zarr.json cannot be read; restore a copy or embed again."
                ) from error
            assert isinstance(array, zarr.Array)  # the store has checked it
            self._arrays[name] = array
        self._samples: int = attributes.get("samples", self._arrays["label"].shape[0])
        self.feature_dim: int = self._arrays["embeddings"].shape[-1]
        self.columns: tuple[str, ...] = tuple(self._arrays["augmentation"].attrs["columns"])  # type: ignore[arg-type]
        """Names of the P augmentation parameters."""
        # Arrays have the sizes in the attributes, or larger ones up to the room of a growth.
        room: dict[str, int] = attributes.get(schema.ROOM, {})
        row = (self.feature_dim, len(self.columns), self.block_rows, self.patches)
        described = schema.layout(len(self), len(self.views), *row)
        largest = schema.layout(room.get("samples", len(self)), room.get("views", len(self.views)), *row)
        for (name, shape, chunks), (_, most, _) in zip(described, largest, strict=True):
            found = self._arrays[name]
            fits = len(found.shape) == len(shape) and all(
                low <= size <= high for low, size, high in zip(shape, found.shape, most, strict=True)
            )
            if found.chunks != chunks or not fits:
                raise StoreDamagedError(
                    f"'{path / name}' has shape {found.shape} in chunks of {found.chunks} where {shape} in chunks of "
                    f"{chunks} is expected; restore a copy or embed again."
                )

    def __len__(self) -> int:
        return self._samples

    @property
    def units(self) -> list[str]:
        """Units that are committed block by block: the samples, the basis of patches, views, the patches of views."""
        return [schema.SAMPLES_UNIT, *([schema.BASIS_UNIT] if self.patches else []), *self.view_units]

    @property
    def view_units(self) -> list[str]:
        """Units that are written after the store was created: each view, and the patches of views that have some."""
        with_patches = self.patches.views if self.patches else ()
        return [*map(str, range(len(self.views))), *map(schema.patch_unit, with_patches)]

    def units_of(self, view: int) -> list[str]:
        """Return the units of one view."""
        return schema.units_of_view(view, self.patches)

    def unit_blocks(self, unit: str) -> int:
        """Return the number of blocks of a unit."""
        return 1 if unit == schema.BASIS_UNIT else self.block_count

    @property
    def chunks(self) -> dict[str, schema.Shape]:
        """Shape of the chunks of each array."""
        return {name: array.chunks for name, array in self._arrays.items()}

    @property
    def block_count(self) -> int:
        """Number of blocks."""
        return schema.block_count(len(self), self.block_rows)

    def block_slice(self, block: int) -> slice:
        """Return the rows of one block; the last block may be shorter."""
        return slice(block * self.block_rows, min((block + 1) * self.block_rows, len(self)))

    def committed(self, unit: str) -> dict[int, schema.Record]:
        """Return the records of a unit's blocks.

        Readers trust these, not array headers, which may claim more blocks than fit in memory.
        """
        known = self._records.get(unit, {})
        # They do not change. Those of a server are read again only if some are lacking.
        if self.path.is_local or not all(block in known for block in range(self.unit_blocks(unit))):
            known = self._records[unit] = read_records(self.path, unit)
        return {block: known[block] for block in sorted(known) if 0 <= block < self.unit_blocks(unit)}

    def is_whole(self, unit: str) -> bool:
        """Return whether all blocks of a unit are committed."""
        return len(self.committed(unit)) == self.unit_blocks(unit)

    def _complete(self, unit: str) -> Records:
        """Return the records of all blocks of a view, or of its patches."""
        records = self.committed(unit)
        if len(records) < self.block_count:
            what = schema.unit_name(unit)
            raise StoreIncompleteError(
                f"{what[0].upper()}{what[1:]} of split {self.name} of '{self.path.parent}' is not complete "
                f"({len(records)} of {self.block_count} blocks); finish it with 'compress-ssl embed --resume'."
            )
        return records

    def _created(self, unit: str) -> Records:
        """Return the records of all blocks of a unit that the store was created with."""
        records = self.committed(unit)
        if len(records) < self.unit_blocks(unit):
            raise StoreDamagedError(
                f"The commit records of {schema.unit_name(unit)} of '{self.path}' are missing; restore a copy or embed "
                "again."
            )
        return records

    def _checked(self, records: Records, name: str = "") -> Records:
        """Return the records, of all arrays or one, after a check that every part has the size that it should have."""
        records = {
            block: {key: part for key, part in record.items() if key.startswith(name)}
            for block, record in records.items()
        }
        check_committed_sizes(self.path, self.chunks, records.values())
        check_sizes(self.path, records)
        return records

    def _part(self, name: str, unit: str, block: int, records: Records) -> tuple[Place, schema.Part]:
        key = schema.part_key(name, unit, block)
        path = self.path.inside(key)
        if block not in records:
            raise StoreDamagedError(f"'{path}' was never committed; finish the store with --resume.")
        return path, records[block][key]

    def _read(
        self,
        name: str,
        unit: str,
        rows: slice,
        records: Records,
        out: npt.NDArray[Any] | None = None,
        look: Look = lambda values: None,
    ) -> npt.NDArray[Any]:
        """Return consecutive rows of an array of numbers, from the beginning of a block to the end of one.

        Args:
            out: Memory to read them into; made if not given.
            look: As of ``ChunkReader.fill``; several threads call it.
        """
        spec = schema.ARRAYS[name]
        shape = self.chunks[name][spec.dimensions.index("sample") + 1 :]
        values = np.empty((rows.stop - (rows.start or 0), *shape), schema.stored_type(spec)) if out is None else out
        first = (rows.start or 0) // self.block_rows

        def read(number: int) -> None:
            path, part = self._part(name, unit, first + number, records)
            start = number * self.block_rows
            self._chunk_reader.fill(path, part, values[start : start + self.block_rows], look)

        with self._reading(name):
            count = schema.block_count(len(values), self.block_rows)
            list(map_threads(read, range(count), threads=self._threads))
        return values

    def _read_whole(self, name: str, unit: str, records: Records) -> npt.NDArray[Any]:
        """Return an array of numbers that is one chunk."""
        path, part = self._part(name, unit, 0, records)
        values = np.empty(self.chunks[name], schema.stored_type(schema.ARRAYS[name]))
        with self._reading(name):
            self._chunk_reader.fill(path, part, values)
        return values

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Turn errors while an array is read into ``StoreDamagedError``."""
        try:
            yield
        except StoreError:
            raise
        except (ValueError, OSError) as error:
            raise StoreDamagedError(
                f"'{self.path / name}' cannot be read ({error}); run 'compress-ssl store verify' for all the "
                "damage, then restore a copy or embed again."
            ) from error


def _patches_in(path: Place, attributes: Mapping[str, Any]) -> schema.PatchInfo | None:
    if schema.PATCHES not in attributes:
        return None
    info, views = schema.PatchInfo.of(attributes[schema.PATCHES]), len(attributes["views"])
    if any(view >= views for view in info.views):
        raise StoreDamagedError(
            f"'{path}/zarr.json' names patches of view {max(info.views)}, and has {views} views; restore a copy or "
            "embed again."
        )
    return info
