"""Opening a store: ``open_store(path)``, a mapping from names to splits (storage/split.py). Read only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import zarr

from compress_ssl.storage import schema
from compress_ssl.storage.attributes import root_attributes
from compress_ssl.storage.chunks import ChunkReader
from compress_ssl.storage.errors import UNREADABLE, StoreDamagedError, StoreError, StoreNotFoundError, did_you_mean
from compress_ssl.storage.places.names import check_split_names
from compress_ssl.storage.places.place import Place, PlaceLike, location
from compress_ssl.storage.publish import has_zarr_metadata, is_store
from compress_ssl.storage.split import Split
from compress_ssl.storage.version import check_version
from compress_ssl.storage.zarr_stores import CheckedStore


def open_store(path: PlaceLike) -> EmbeddingStore:
    """Open an embedding store for reading.

    Args:
        path (str, Path or Place): A folder, or a URL: ``s3://``, ``gs://``, ``https://``. The chunks of a remote store
            are kept in a local cache.

    Raises:
        StoreUnreachableError: If its server cannot be reached, or refuses.
        StoreNotFoundError: If there is no store at ``path``.
        StoreVersionError: If its format version is not one that this release reads.
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
    check_version(place, attributes.get("version"), "embed again")
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
        reader = ChunkReader(path)
        for name in sorted(names):
            folder = path / name
            try:
                # Not by the consolidated metadata of the root: they would be read before they are checked.
                group = zarr.open_group(store, path=name, mode="r", zarr_format=3, use_consolidated=False)
                self._splits[name] = Split(folder, reader, group)
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
        """True if all blocks of all views are committed, with their patches if they have some."""
        return all(split.is_whole(unit) for split in self.splits for unit in split.view_units)

    def __getitem__(self, name: str) -> Split:
        if name not in self._splits:
            raise StoreError(
                f"'{self.path}' has no split '{name}'; it has {', '.join(self.split_names) or 'none'}."
                f"{did_you_mean(name, self.split_names)}"
            )
        return self._splits[name]
