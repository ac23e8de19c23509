"""One split of an open store: its samples, and its views once they are committed."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from compress_ssl.storage import schema
from compress_ssl.storage.commits import SAMPLES_UNIT, check_sizes, read_records
from compress_ssl.storage.errors import UNREADABLE, StoreDamagedError, StoreError, StoreIncompleteError
from compress_ssl.storage.places.names import check_inside
from compress_ssl.storage.safety import array_metadata, check_committed_sizes, check_text_counts, check_views
from compress_ssl.storage.zarr_stores import CachedStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from compress_ssl.storage.commits import Record
    from compress_ssl.storage.places.remote import Place

BLOCKS_AT_ONCE = 16
"""Chunks that zarr reads side by side: about 256 MiB."""


class Split:
    """One split of a store. N samples, V views, D features, P augmentation parameters."""

    def __init__(self, path: Place, group: zarr.Group) -> None:
        self.path = path
        self.name = path.name
        self._group = group
        self.attributes: dict[str, Any] = dict(group.attrs)
        attributes = self.attributes
        self.folder: str = attributes["folder"]
        """The split's folder, relative to the data set's root."""
        check_inside(f"'{path}/zarr.json'", [self.folder])
        self.views: list[dict[str, Any]] = attributes["views"]
        """Policy, seed and size of each view; view 0 is the evaluation view."""
        check_views(self.views)
        self.class_names: tuple[str, ...] = tuple(attributes["class_names"])
        self.block_rows: int = attributes["block_rows"]
        if type(self.block_rows) is not int or self.block_rows < 1:
            raise ValueError(f"block_rows is {self.block_rows!r}")
        self._arrays = {name: self._array(name) for name in schema.VIEW_ARRAYS | schema.SAMPLE_ARRAYS}
        self._samples: int = attributes.get("samples", self._arrays["label"].shape[0])
        self.feature_dim: int = self._arrays["embeddings"].shape[-1]
        self.columns: tuple[str, ...] = tuple(self._arrays["augmentation"].attrs["columns"])  # type: ignore[arg-type]
        """Names of the P augmentation parameters."""
        self._check_layout(attributes.get(schema.ROOM, {}))

    def _check_layout(self, room: dict[str, int]) -> None:
        """Check that arrays are as large as the attributes say, or larger up to the room of a growth that is prepared."""
        row = (self.feature_dim, len(self.columns), self.block_rows)
        described = schema.layout(len(self), len(self.views), *row)
        largest = schema.layout(room.get("samples", len(self)), room.get("views", len(self.views)), *row)
        for (name, shape, chunks), (_, most, _) in zip(described, largest, strict=True):
            found = self._arrays[name]
            if found.chunks != chunks or len(found.shape) != len(shape) or not _between(shape, found.shape, most):
                raise StoreDamagedError(
                    f"'{self.path / name}' has shape {found.shape} in chunks of {found.chunks} where {shape} in chunks "
                    f"of {chunks} belongs; restore a copy or embed again."
                )

    def __len__(self) -> int:
        return self._samples

    @property
    def block_count(self) -> int:
        """Number of blocks."""
        return schema.block_count(len(self), self.block_rows)

    def block_slice(self, block: int) -> slice:
        """Rows of one block; the last block may be shorter."""
        return slice(block * self.block_rows, min((block + 1) * self.block_rows, len(self)))

    @cached_property
    def samples(self) -> schema.Samples:
        """Paths, labels, sizes, hashes and status of all N samples, in store order. Raises as ``view``."""
        records = self.committed(SAMPLES_UNIT)
        if len(records) < self.block_count:
            raise StoreDamagedError(
                f"The commit records of the samples of '{self.path}' are missing; restore a copy or embed again."
            )
        self._check_sizes(records)
        texts = [f"sample_path/c/{block}" for block in records]
        check_text_counts(self.path, self._group.store, texts, self.block_rows)
        values = {name: self._read(name, slice(len(self))) for name in schema.SAMPLE_ARRAYS}
        paths = [str(path) for path in values.pop("sample_path")]
        check_inside(f"'{self.path}/sample_path'", paths)
        return schema.Samples(sample_path=paths, **values, class_names=self.class_names)

    def committed_blocks(self, view: int) -> int:
        """How many blocks of a view are committed."""
        return len(self.committed(str(view)))

    @property
    def complete_views(self) -> list[int]:
        """Views that can be read."""
        return [view for view in range(len(self.views)) if self.committed_blocks(view) == self.block_count]

    def view(self, view: int) -> npt.NDArray[np.float16]:
        """Embeddings of all samples in one view, by one sequential read.

        Returns
        -------
        embeddings : float16 array of shape (N, D)
            The teacher's output before any normalisation; NaN in the rows of bad images.

        Raises
        ------
        StoreError
            If there is no such view.
        StoreIncompleteError
            If some of its blocks are not committed.
        StoreDamagedError
            If a committed part is missing, has another size, or fails its checksum.
        """
        return self._read_view("embeddings", view, slice(len(self)))

    def blocks(self, view: int) -> Iterator[tuple[slice, npt.NDArray[np.float16]]]:
        """Rows and embeddings of a view, a run of whole blocks at a time. Raises as ``view``."""
        self._check_complete(view)
        step = BLOCKS_AT_ONCE * self.block_rows
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            yield rows, self._read("embeddings", (view, rows))

    def rows(self, view: int, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float16]:
        """Embeddings (len(rows), D) of some samples; reads every block they lie in.

        Raises
        ------
        StoreError
            As ``view``, and if ``rows`` are not numbers from 0 to N - 1.
        """
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
        return self._read_view("embeddings", view, wanted)

    def augmentation(self, view: int) -> npt.NDArray[np.float32]:
        """Augmentation parameters (N, P) of one view; ``columns`` names them. Raises as ``view``."""
        return self._read_view("augmentation", view, slice(len(self)))

    def block(self, view: int, block: int) -> dict[str, npt.NDArray[Any]]:
        """Embeddings (R, D) and augmentation parameters (R, P) of one committed block of R rows, by the arrays' names."""
        return {name: self._read(name, (view, self.block_slice(block))) for name in schema.VIEW_ARRAYS}

    def _read_view(self, name: str, view: int, rows: slice | npt.NDArray[Any]) -> npt.NDArray[Any]:
        self._check_complete(view)
        return self._read(name, (view, rows))

    def _check_complete(self, view: int) -> None:
        if not 0 <= view < len(self.views):
            raise StoreError(
                f"Split {self.name} of '{self.path.parent}' has no view {view}; it has views 0 to {len(self.views) - 1}."
            )
        records = self.committed(str(view))
        if len(records) < self.block_count:
            raise StoreIncompleteError(
                f"View {view} of split {self.name} of '{self.path.parent}' is not complete ({len(records)} of "
                f"{self.block_count} blocks); finish it with 'compress-ssl embed --resume'."
            )
        self._check_sizes(records)

    def committed(self, unit: str) -> dict[int, Record]:
        """Records of a unit's blocks. They are what is gone by: a header may claim more blocks than there is memory for."""
        store = self._group.store
        if isinstance(store, CachedStore):
            records = store.committed.records(self.name, unit, range(self.block_count))
        else:
            records = read_records(self.path, unit)
        return {block: records[block] for block in sorted(records) if 0 <= block < self.block_count}

    def _check_sizes(self, records: dict[int, Record]) -> None:
        check_committed_sizes(self.path, {name: each.chunks for name, each in self._arrays.items()}, records.values())
        check_sizes(self.path, records)

    def _read(self, name: str, selection: Any) -> npt.NDArray[Any]:
        try:
            array = self._arrays[name]
            gather = isinstance(selection, tuple) and isinstance(selection[1], np.ndarray)
            return np.asarray(array.oindex[selection] if gather else array[selection])
        except StoreError:
            raise
        except (ValueError, OSError, RuntimeError) as error:
            raise StoreDamagedError(
                f"'{self.path / name}' cannot be read ({error}); run 'compress-ssl store verify' for all the "
                "damage, then restore a copy or embed again."
            ) from error

    def _array(self, name: str) -> zarr.Array[Any]:
        path = self.path / name
        try:
            metadata: Any = array_metadata(path, (path / "zarr.json").read_bytes())
            return zarr.Array(zarr.AsyncArray(metadata, self._group.store_path / name))
        except StoreError:
            raise
        except (*UNREADABLE, OSError) as error:
            raise StoreDamagedError(
                f"'{path}' is missing or its zarr.json cannot be read; restore a copy or embed again."
            ) from error


def _between(least: schema.Shape, found: schema.Shape, most: schema.Shape) -> bool:
    return all(low <= size <= high for low, size, high in zip(least, found, most, strict=True))
