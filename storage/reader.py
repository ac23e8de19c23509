"""Reading a store: ``open_store(path)["train"].view(3)``. Read only, and only what is committed.

Letters: V views, N samples, D features, P augmentation parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from compress_ssl.storage import schema
from compress_ssl.storage.attributes import root_attributes, split_attributes
from compress_ssl.storage.commits import check_sizes, read_records
from compress_ssl.storage.errors import (
    UNREADABLE,
    StoreDamagedError,
    StoreError,
    StoreIncompleteError,
    StoreNotFoundError,
    StoreUnsafeError,
    StoreVersionError,
    did_you_mean,
)
from compress_ssl.storage.parameters import COLUMNS, impossible
from compress_ssl.storage.places.names import check_inside, check_split_names
from compress_ssl.storage.places.place import Place, PlaceLike, location
from compress_ssl.storage.publish import has_zarr_metadata, is_store
from compress_ssl.storage.safety import check_committed_sizes
from compress_ssl.storage.values import Fault, not_finite, wrong_sample
from compress_ssl.storage.zarr_stores import CheckedStore


def open_store(path: PlaceLike) -> EmbeddingStore:
    """Open an embedding store for reading.

    Args:
        path (str, Path or Place): A folder, or a URL: ``s3://``, ``gs://``, ``https://``. The chunks of a remote store
            are kept in a local cache.

    Raises:
        StoreUnreachableError: If its server cannot be reached, or refuses.
        StoreNotFoundError: If there is no store at ``path``.
        StoreVersionError: If its format is not the one this release reads.
        StoreDamagedError: If its metadata cannot be read or contradict each other.

    Example:
        >>> train = open_store("teacher.zarr")["train"]  # doctest: +SKIP
        >>> train.view(3).shape                          # doctest: +SKIP
        (1281167, 2048)
    """
    place = location(path)
    if not has_zarr_metadata(place):
        if is_store(place):
            raise _damaged(place, "is missing")
        what = "is not an embedding store" if place.exists() else "does not exist"
        raise StoreNotFoundError(f"'{place}' {what}; make one with 'compress-ssl embed DATA STORE'.")
    store = CheckedStore(place)
    try:
        root = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
    except (zarr.errors.ContainsArrayError, zarr.errors.NodeTypeValidationError) as error:
        raise StoreNotFoundError(f"'{place}' is a zarr array, not an embedding store; check the path.") from error
    except StoreError:
        raise
    except UNREADABLE as error:
        raise _damaged(place, f"cannot be read ({error})") from error
    attributes = dict(root.attrs)
    if attributes.get("format") != schema.FORMAT_NAME:
        if is_store(place):
            raise _damaged(place, "names no format")
        raise StoreNotFoundError(f"'{place}' is a zarr group, but not an embedding store; check the path.")
    if attributes.get("version") != schema.FORMAT_VERSION:
        raise StoreVersionError(
            f"'{place}' has format version {attributes.get('version')!r:.40}, but this release reads version "
            f"{schema.FORMAT_VERSION}; upgrade compress-ssl, or embed again."
        )
    return EmbeddingStore(place, store, attributes)


def _damaged(place: Place, fault: str) -> StoreDamagedError:
    return StoreDamagedError(f"'{place}/zarr.json' {fault}; restore it from a copy, or embed again.")


class EmbeddingStore:
    """An open store: a mapping from split name to ``Split``."""

    def __init__(self, path: Place, store: CheckedStore, attributes: Mapping[str, Any]) -> None:
        self.path = path
        self.attributes: Mapping[str, Any] = root_attributes(path, attributes)
        names = attributes["splits"]
        check_split_names(path, names)
        self._splits: dict[str, Split] = {}
        for name in sorted(names):
            folder = path / name
            try:
                # Not by the consolidated metadata of the root: they would be read before they are checked.
                group = zarr.open_group(store, path=name, mode="r", zarr_format=3, use_consolidated=False)
                self._splits[name] = Split(folder, store, group)
            except StoreError:
                raise
            except (KeyError, zarr.errors.GroupNotFoundError) as error:
                raise _damaged(folder, f"lacks {error}" if has_zarr_metadata(folder) else "is missing") from error
            except UNREADABLE as error:
                raise _damaged(folder, f"cannot be read ({error})") from error

    @property
    def split_names(self) -> list[str]:
        """Names of the splits, sorted."""
        return list(self._splits)

    @property
    def splits(self) -> list[Split]:
        """The splits, sorted by name."""
        return list(self._splits.values())

    @property
    def units(self) -> list[tuple[Split, str]]:
        """Every unit of every split."""
        return [(split, unit) for split in self.splits for unit in split.units]

    @property
    def is_complete(self) -> bool:
        """True if all blocks of all views are committed."""
        return all(len(split.complete_views) == len(split.views) for split in self.splits)

    def __getitem__(self, name: str) -> Split:
        if name not in self._splits:
            raise StoreError(
                f"'{self.path}' has no split '{name}'; it has {', '.join(self.split_names) or 'none'}."
                f"{did_you_mean(name, self.split_names)}"
            )
        return self._splits[name]


Rows = slice | npt.NDArray[np.integer[Any]]

BLOCKS_AT_ONCE = 16  # chunks that zarr reads side by side: about 256 MiB


class Split:
    """One split of a store: its samples, and its views once they are committed."""

    def __init__(self, path: Place, store: CheckedStore, group: zarr.Group) -> None:
        self.path = path
        self.name = path.name
        self._store = store
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
        records = self.committed(schema.SAMPLES_UNIT)
        if len(records) < self.block_count:
            raise StoreDamagedError(
                f"The commit records of the samples of '{self.path}' are missing; restore a copy or embed again."
            )
        self._check_sizes(records)
        values = {name: self._read(name, slice(len(self))) for name in schema.SAMPLE_ARRAYS}
        paths = [str(path) for path in values.pop("sample_path")]
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

    def view(self, view: int) -> npt.NDArray[np.float16]:
        """Return the embeddings of all samples in one view, by one sequential read.

        Returns:
            embeddings (float16 array of shape (N, D)): The teacher's output before any normalisation; NaN in the rows
                of bad images.

        Raises:
            StoreError: If there is no such view.
            StoreIncompleteError: If some of its blocks are not committed.
            StoreDamagedError: If a committed part is missing, has another size, or does not match its checksum.
        """
        self._check_complete(view)
        return self._embeddings(view, slice(len(self)))

    def blocks(self, view: int) -> Iterator[tuple[slice, npt.NDArray[np.float16]]]:
        """Yield rows and embeddings of a view, several whole blocks at a time. Raises as ``view``."""
        self._check_complete(view)
        step = BLOCKS_AT_ONCE * self.block_rows
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            yield rows, self._embeddings(view, rows)

    def rows(self, view: int, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float16]:
        """Return the embeddings (len(rows), D) of some samples; reads every block they are in.

        Raises:
            StoreError: As ``view``, and if ``rows`` are not numbers from 0 to N - 1.
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
        self._check_complete(view)
        return self._embeddings(view, wanted)

    def augmentation(self, view: int) -> npt.NDArray[np.float32]:
        """Return the augmentation parameters (N, P) of one view; ``columns`` names them. Raises as ``view``."""
        self._check_complete(view)
        return self._augmentation(view, slice(len(self)))

    def block(self, view: int, block: int) -> dict[str, npt.NDArray[Any]]:
        """Return embeddings (R, D) and augmentation parameters (R, P) of a committed block of R rows, by array name."""
        rows = self.block_slice(block)
        return {"embeddings": self._embeddings(view, rows), "augmentation": self._augmentation(view, rows)}

    def _embeddings(self, view: int, rows: Rows) -> npt.NDArray[np.float16]:
        values = self._read("embeddings", (view, rows))
        self._refuse(f" of view {view}", rows, not_finite(values, self._status_and_size[0][rows] == schema.Status.GOOD))
        return values

    def _augmentation(self, view: int, rows: slice) -> npt.NDArray[np.float32]:
        values = self._read("augmentation", (view, rows))
        if self.columns == COLUMNS:
            status, image_size = self._status_and_size
            fault = impossible(values, status[rows], image_size[rows], self.views[view])
            self._refuse(f" of view {view}", rows, fault)
        return values

    @cached_property
    def _status_and_size(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        return self._read("status", slice(len(self))), self._read("image_size", slice(len(self)))

    def _refuse(self, where: str, rows: Rows, fault: Fault) -> None:
        """Raise StoreUnsafeError for a fault in one of these rows, if there is one."""
        if fault is not None:
            row = (rows.start or 0) + fault[0] if isinstance(rows, slice) else rows[fault[0]]
            raise StoreUnsafeError(
                f"Row {row}{where} of split {self.name} of '{self.path.parent}' {fault[1]}; get the store from whoever "
                "made it, or embed again."
            )

    def _check_complete(self, view: int) -> None:
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
        self._check_sizes(records)

    def committed(self, unit: str) -> dict[int, schema.Record]:
        """Return the records of a unit's blocks.

        Readers trust these, not array headers, which may claim more blocks than fit in memory.
        """
        if self.path.is_local:
            records = read_records(self.path, unit)
        else:
            records = self._store.records(self.name, unit, range(self.block_count))
        return {block: records[block] for block in sorted(records) if 0 <= block < self.block_count}

    def _check_sizes(self, records: dict[int, schema.Record]) -> None:
        check_committed_sizes(self.path, self.chunks, records.values())
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
