"""Reading one split: ``open_store(path)["train"].view(3)``. Read only, and only what is committed.

Letters: V views, N samples, D features, P augmentation parameters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from compress_ssl.storage import schema
from compress_ssl.storage.attributes import split_attributes
from compress_ssl.storage.chunks import ChunkReader, Look, texts
from compress_ssl.storage.commits import check_sizes, read_records
from compress_ssl.storage.errors import (
    UNREADABLE,
    StoreDamagedError,
    StoreError,
    StoreIncompleteError,
    StoreUnsafeError,
)
from compress_ssl.storage.parameters import COLUMNS, KNOWN_COLUMNS, impossible
from compress_ssl.storage.places.names import check_inside
from compress_ssl.storage.places.parallel import map_threads
from compress_ssl.storage.places.place import Place
from compress_ssl.storage.safety import check_committed_sizes
from compress_ssl.storage.values import Fault, is_finite, not_finite, wrong_sample

Rows = slice | npt.NDArray[np.integer[Any]]
Records = Mapping[int, schema.Record]  # by block

BLOCKS_AT_ONCE = 16  # that are read before they are given: about 256 MiB
READS_AT_ONCE, REQUESTS_AT_ONCE = 4, 16  # chunks read side by side from a disk, from a server


class Split:
    """One split of a store: its samples, and its views once they are committed."""

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
        self._arrays: dict[str, zarr.Array[Any]] = {}
        for name in schema.ARRAYS:
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
        row = (self.feature_dim, len(self.columns), self.block_rows)
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
        """Units that are committed block by block: the samples, and each view."""
        return [schema.SAMPLES_UNIT, *map(str, range(len(self.views)))]

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

    @cached_property
    def samples(self) -> schema.Samples:
        """Paths, labels, sizes, hashes and status of all N samples, in store order. Raises as ``view``."""
        values = {name: self._of_samples(name) for name in schema.SAMPLE_ARRAYS if name != "sample_path"}
        paths = self._paths()
        check_inside(f"'{self.path}/sample_path'", paths)
        fault = wrong_sample(values["status"], values["label"], values["image_size"], len(self.class_names))
        self._refuse("", slice(len(self)), fault)
        return schema.Samples(sample_path=paths, **values, class_names=self.class_names)

    def committed_blocks(self, view: int) -> int:
        """Return how many blocks of a view are committed."""
        return len(self.committed(str(view)))

    @property
    def complete_views(self) -> list[int]:
        """Views that can be read."""
        return [view for view in range(len(self.views)) if self.committed_blocks(view) == self.block_count]

    def view(self, view: int, out: npt.NDArray[np.float16] | None = None) -> npt.NDArray[np.float16]:
        """Return the embeddings of all samples in one view, by one sequential read.

        Args:
            out (contiguous, writable float16 array of shape (N, D)): Memory to read them into; made if not given.

        Returns:
            embeddings (float16 array of shape (N, D)): The teacher's output before any normalisation; NaN in the rows
                of bad images.

        Raises:
            StoreError: If there is no such view, or ``out`` is another array than it must be.
            StoreIncompleteError: If some of its blocks are not committed.
            StoreDamagedError: If a committed part is missing, has another size, or does not match its checksum.
        """
        records = self._checked(self._complete(view))
        if out is not None and not (
            out.shape == (len(self), self.feature_dim) and out.dtype == np.float16 and out.flags.carray
        ):
            raise StoreError(
                f"out must be a contiguous, writable float16 array of shape ({len(self)}, {self.feature_dim})."
            )
        return self._embeddings(view, slice(len(self)), records, out)

    def blocks(self, view: int) -> Iterator[tuple[slice, npt.NDArray[np.float16]]]:
        """Yield rows and embeddings of a view, several whole blocks at a time. Raises as ``view``."""
        records = self._checked(self._complete(view))
        step = BLOCKS_AT_ONCE * self.block_rows
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            yield rows, self._embeddings(view, rows, records)

    def rows(self, view: int, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float16]:
        """Return the embeddings (len(rows), D) of some samples; reads little more than these.

        Raises:
            StoreError: As ``view`` (of the parts that the rows are in), and if ``rows`` are not numbers from 0 to
                N - 1.
        """
        wanted, values = self._read_rows("embeddings", view, rows)
        if not is_finite(values):
            self._check_finite(view, wanted, values)
        return values

    def augmentation_rows(
        self, view: int, rows: Sequence[int] | npt.NDArray[np.integer[Any]]
    ) -> npt.NDArray[np.float32]:
        """Return the augmentation parameters (len(rows), P) of some samples. Raises as ``rows``."""
        wanted, values = self._read_rows("augmentation", view, rows)
        self._check_possible(view, wanted, values)
        return values

    def _read_rows(
        self, name: str, view: int, rows: Sequence[int] | npt.NDArray[np.integer[Any]]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[Any]]:
        """Return row numbers and their values in an array of views."""
        wanted = np.asarray(rows)
        if wanted.ndim == 1 and not len(wanted):
            wanted = wanted.astype(np.intp)
        if wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer):
            raise StoreError(f"rows must be a list of row numbers, got {wanted.dtype} of shape {wanted.shape}.")
        outside = wanted[(wanted < 0) | (wanted >= len(self))]
        if len(outside):
            raise StoreError(
                f"Split {self.name} of '{self.path.parent}' has no row {outside[0]}; it has rows 0 to {len(self) - 1}."
            )
        numbers, inside = np.divmod(wanted.astype(np.intp), self.block_rows)
        complete = self._complete(view)
        records = self._checked({block: complete[block] for block in np.unique(numbers).tolist()}, name)
        values = np.empty((len(wanted), self.chunks[name][-1]), schema.stored_type(schema.ARRAYS[name]))

        def read(block: int) -> None:
            here = numbers == block
            path, part = self._part(name, str(view), block, records)
            values[here] = self._chunk_reader.rows(path, part, inside[here], values.shape[1:], values.dtype)

        with self._reading(name):
            list(map_threads(read, records, threads=self._threads))
        return wanted, values

    def augmentation(self, view: int) -> npt.NDArray[np.float32]:
        """Return the augmentation parameters (N, P) of one view; ``columns`` names them. Raises as ``view``."""
        records = self._checked(self._complete(view))
        return self._augmentation(view, slice(len(self)), records)

    def block(self, view: int, block: int) -> dict[str, npt.NDArray[Any]]:
        """Return embeddings (R, D) and augmentation parameters (R, P) of a committed block of R rows, by array name."""
        rows, unit = self.block_slice(block), str(view)
        known = self._records.get(unit, {})
        if block not in known:
            known = self.committed(unit)
        records = self._checked({block: known[block]} if block in known else {})
        return {
            "embeddings": self._embeddings(view, rows, records),
            "augmentation": self._augmentation(view, rows, records),
        }

    def _embeddings(
        self, view: int, rows: slice, records: Records, out: npt.NDArray[np.float16] | None = None
    ) -> npt.NDArray[np.float16]:
        finite: list[bool] = []
        values = self._read("embeddings", str(view), rows, records, out, lambda half: finite.append(is_finite(half)))
        if not all(finite):
            self._check_finite(view, rows, values)
        return values

    def _check_finite(self, view: int, rows: Rows, values: npt.NDArray[np.float16]) -> None:
        good = self._status[rows] == schema.Status.GOOD
        self._refuse(f" of view {view}", rows, not_finite(values, good))

    def _augmentation(self, view: int, rows: slice, records: Records) -> npt.NDArray[np.float32]:
        values = self._read("augmentation", str(view), rows, records)
        self._check_possible(view, rows, values)
        return values

    def _check_possible(self, view: int, rows: Rows, values: npt.NDArray[np.float32]) -> None:
        if self.columns in KNOWN_COLUMNS:
            all_good = None if self.columns == COLUMNS else self._status == schema.Status.GOOD
            fault = impossible(values, self._status[rows], self._image_size[rows], self.views[view], all_good)
            self._refuse(f" of view {view}", rows, fault)

    @cached_property
    def _status(self) -> npt.NDArray[np.uint8]:
        return self._of_samples("status")

    @cached_property
    def _image_size(self) -> npt.NDArray[np.int32]:
        return self._of_samples("image_size")

    def _of_samples(self, name: str) -> npt.NDArray[Any]:
        """Return a per-sample array of numbers (N, ...)."""
        records = self._checked(self._sample_records, name)
        return self._read(name, schema.SAMPLES_UNIT, slice(len(self)), records)

    def _paths(self) -> list[str]:
        records = self._checked(self._sample_records, "sample_path")

        def read(block: int) -> list[str]:
            path, part = self._part("sample_path", schema.SAMPLES_UNIT, block, records)
            return texts(path, self._chunk_reader.bytes(path, part), self.block_rows)

        with self._reading("sample_path"):
            found = list(chain.from_iterable(map_threads(read, records, threads=self._threads)))
        return found[: len(self)]

    @cached_property
    def _sample_records(self) -> Records:
        records = self.committed(schema.SAMPLES_UNIT)
        if len(records) < self.block_count:
            raise StoreDamagedError(
                f"The commit records of the samples of '{self.path}' are missing; restore a copy or embed again."
            )
        return records

    def _refuse(self, where: str, rows: Rows, fault: Fault) -> None:
        """Raise StoreUnsafeError for a fault in one of these rows, if there is one."""
        if fault is not None:
            row = (rows.start or 0) + fault[0] if isinstance(rows, slice) else rows[fault[0]]
            raise StoreUnsafeError(
                f"Row {row}{where} of split {self.name} of '{self.path.parent}' {fault[1]}; get the store from whoever "
                "made it, or embed again."
            )

    def _complete(self, view: int) -> Records:
        """Return the records of all blocks of a view."""
        if not 0 <= view < len(self.views):
            raise StoreError(
                f"Split {self.name} of '{self.path.parent}' has no view {view}; it has views 0 to "
                f"{len(self.views) - 1}."
            )
        records = self.committed(str(view))
        if len(records) < self.block_count:
            raise StoreIncompleteError(
                f"View {view} of split {self.name} of '{self.path.parent}' is not complete ({len(records)} of "
                f"{self.block_count} blocks); finish it with 'compress-ssl embed --resume'."
            )
        return records

    def committed(self, unit: str) -> dict[int, schema.Record]:
        """Return the records of a unit's blocks.

        Readers trust these, not array headers, which may claim more blocks than fit in memory.
        """
        known = self._records.get(unit, {})
        # They do not change. Those of a server are read again only if some are lacking.
        if self.path.is_local or not all(block in known for block in range(self.block_count)):
            known = self._records[unit] = read_records(self.path, unit)
        return {block: known[block] for block in sorted(known) if 0 <= block < self.block_count}

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
