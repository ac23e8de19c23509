"""Reading a store: ``open_store(path)["train"].view(3)``. Read only, and only what is committed."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.storage import LocalStore

from storage import schema
from storage.commits import check_sizes, read_records
from storage.errors import (
    StoreDamagedError,
    StoreError,
    StoreIncompleteError,
    StoreNotFoundError,
    StoreVersionError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt


def open_store(path: str | Path) -> EmbeddingStore:
    """Open an embedding store for reading.

    Raises
    ------
    StoreNotFoundError
        If there is no store at ``path``.
    StoreVersionError
        If its format is not the one this release reads.

    Examples
    --------
    >>> train = open_store("teacher.zarr")["train"]  # doctest: +SKIP
    >>> train.view(3).shape                          # doctest: +SKIP
    (1281167, 2048)
    """
    path = Path(path)
    if not (path / "zarr.json").is_file():
        what = "is not an embedding store" if path.exists() else "does not exist"
        raise StoreNotFoundError(f"'{path}' {what}; make one with 'compress-ssl embed DATA STORE'.")
    try:
        root = zarr.open_group(LocalStore(path, read_only=True), mode="r", use_consolidated=False)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreDamagedError(
            f"'{path}/zarr.json' cannot be read ({error}); restore it from a copy, or embed again."
        ) from error
    attributes = dict(root.attrs)
    if attributes.get("format") != schema.FORMAT_NAME:
        raise StoreNotFoundError(f"'{path}' is a zarr group, but not an embedding store.")
    if attributes.get("version") != schema.FORMAT_VERSION:
        raise StoreVersionError(
            f"'{path}' has format version {attributes.get('version')}; this release reads version "
            f"{schema.FORMAT_VERSION}. Upgrade compress-ssl, or embed again."
        )
    return EmbeddingStore(path, root, attributes)


class EmbeddingStore:
    """An open store: a mapping from split name to ``Split``."""

    def __init__(self, path: Path, root: zarr.Group, attributes: Mapping[str, Any]) -> None:
        self.path = path
        self.attributes = attributes
        self._splits = {name: Split(path / name, group) for name, group in sorted(root.groups())}

    @property
    def split_names(self) -> list[str]:
        """Names of the splits, sorted."""
        return list(self._splits)

    def __getitem__(self, name: str) -> Split:
        if name not in self._splits:
            raise StoreError(f"'{self.path}' has no split '{name}'; it has {', '.join(self.split_names) or 'none'}.")
        return self._splits[name]


class Split:
    """One split of a store. N samples, V views, D features, P augmentation parameters."""

    def __init__(self, path: Path, group: zarr.Group) -> None:
        self.path = path
        self.name = path.name
        self._group = group
        attributes: dict[str, Any] = dict(group.attrs)
        self.folder: str = attributes["folder"]
        """The split's folder, relative to the data set's root."""
        self.views: list[dict[str, Any]] = attributes["views"]
        """Policy, seed and size of each view; view 0 is the evaluation view."""
        self.class_names: tuple[str, ...] = tuple(attributes["class_names"])
        self.block_rows: int = attributes["block_rows"]
        self.feature_dim: int = self._array("embeddings").shape[2]
        self.columns: tuple[str, ...] = tuple(self._array("augmentation").attrs["columns"])  # type: ignore[arg-type]
        """Names of the P augmentation parameters."""

    def __len__(self) -> int:
        return int(self._array("label").shape[0])

    @property
    def block_count(self) -> int:
        """Number of blocks."""
        return schema.block_count(len(self), self.block_rows)

    def block_slice(self, block: int) -> slice:
        """Rows of one block; the last block may be shorter."""
        return slice(block * self.block_rows, min((block + 1) * self.block_rows, len(self)))

    @cached_property
    def samples(self) -> schema.Samples:
        """Paths, labels, sizes, hashes and status of all N samples, in store order."""
        values = {name: self._read(name, slice(None)) for name in schema.SAMPLE_ARRAYS}
        paths = [str(path) for path in values.pop("sample_path")]
        return schema.Samples(sample_path=paths, **values, class_names=self.class_names)

    def committed_blocks(self, view: int) -> int:
        """How many blocks of a view are committed."""
        return len(read_records(self.path, str(view)))

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
        return self._read_view("embeddings", view, slice(None))

    def rows(self, view: int, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float16]:
        """Embeddings (len(rows), D) of some samples; reads every block they lie in. Raises as ``view``."""
        return self._read_view("embeddings", view, np.asarray(rows))

    def augmentation(self, view: int) -> npt.NDArray[np.float32]:
        """Augmentation parameters (N, P) of one view; ``columns`` names them. Raises as ``view``."""
        return self._read_view("augmentation", view, slice(None))

    def _read_view(self, name: str, view: int, rows: slice | npt.NDArray[Any]) -> npt.NDArray[Any]:
        if not 0 <= view < len(self.views):
            raise StoreError(
                f"Split {self.name} of '{self.path.parent}' has no view {view}; it has views 0 to {len(self.views) - 1}."
            )
        records = read_records(self.path, str(view))
        if len(records) < self.block_count:
            raise StoreIncompleteError(
                f"View {view} of split {self.name} of '{self.path.parent}' is not complete ({len(records)} of "
                f"{self.block_count} blocks); finish it with 'compress-ssl embed --resume'."
            )
        check_sizes(self.path, records)
        return self._read(name, (view, rows))

    def _read(self, name: str, selection: Any) -> npt.NDArray[Any]:
        try:
            array = self._array(name)
            gather = isinstance(selection, tuple) and isinstance(selection[1], np.ndarray)
            return np.asarray(array.oindex[selection] if gather else array[selection])
        except (ValueError, OSError, RuntimeError) as error:
            raise StoreDamagedError(
                f"'{self.path / name}' cannot be read ({error}); run 'compress-ssl store verify' for all the "
                "damage, then restore a copy or embed again."
            ) from error

    def _array(self, name: str) -> zarr.Array[Any]:
        try:
            array = self._group[name]
        except (KeyError, ValueError, TypeError) as error:
            raise StoreDamagedError(
                f"'{self.path / name}' is missing or its zarr.json cannot be read; restore a copy or embed again."
            ) from error
        if not isinstance(array, zarr.Array):
            raise StoreDamagedError(f"'{self.path / name}' is not an array; restore a copy or embed again.")
        return array


def describe(store: EmbeddingStore) -> dict[str, Any]:
    """What a store holds, for people and for JSON: attributes, and for each split its size and progress."""
    return {
        "path": str(store.path),
        **store.attributes,
        "splits": {
            name: {
                "samples": len(split),
                "bad_images": int((~split.samples.good).sum()),
                "classes": len(split.class_names),
                "feature_dim": split.feature_dim,
                "views": split.views,
                "views_complete": len(split.complete_views),
                "blocks": split.block_count,
                "block_rows": split.block_rows,
                "blocks_committed": [split.committed_blocks(view) for view in range(len(split.views))],
                "bytes": 2 * math.prod((len(split.views), len(split), split.feature_dim)),
            }
            for name in store.split_names
            for split in [store[name]]
        },
    }
