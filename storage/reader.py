"""Reading a store: ``open_store(path)["train"].view(3)``. Read only, and only what is committed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import zarr

from compress_ssl.storage import schema
from compress_ssl.storage.errors import UNREADABLE, StoreDamagedError, StoreError, StoreNotFoundError, StoreVersionError
from compress_ssl.storage.places.names import check_split_names
from compress_ssl.storage.places.remote import RemotePath, location
from compress_ssl.storage.split import Split
from compress_ssl.storage.zarr_stores import zarr_store

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from compress_ssl.storage.places.remote import Place


def is_store(path: Place) -> bool:
    """Whether a folder is an embedding store, of any version and however damaged: what may be swept or deleted as one."""
    try:
        attributes = json.loads((path / "zarr.json").read_bytes())["attributes"]
        return bool(attributes["format"] == schema.FORMAT_NAME)
    except StoreError:
        raise
    except OSError:
        damaged = path.is_dir()
    except (ValueError, KeyError, TypeError):
        damaged = True
    return damaged and next(path.glob("*/embeddings/commits"), None) is not None


def has_zarr_metadata(path: Place) -> bool:
    """Whether a folder is meant as a store: ``open_store`` says what is wrong with it if it is none."""
    return (path / "zarr.json").is_file()


def is_meant_as_store(text: str) -> bool:
    """Whether a user who names a store or a network means a store: a URL, or such a folder."""
    place = location(text)
    return isinstance(place, RemotePath) or has_zarr_metadata(place)


def open_store(path: str | Path | RemotePath) -> EmbeddingStore:
    """Open an embedding store for reading.

    Parameters
    ----------
    path : str, Path or RemotePath
        A folder, or a URL: ``s3://``, ``gs://``, ``https://``. The chunks of a remote store are kept in a local cache.

    Raises
    ------
    StoreUnreachableError
        If its server cannot be reached, or refuses.
    StoreNotFoundError
        If there is no store at ``path``.
    StoreVersionError
        If its format is not the one this release reads.
    StoreDamagedError
        If its metadata cannot be read or contradict each other.

    Examples
    --------
    >>> train = open_store("teacher.zarr")["train"]  # doctest: +SKIP
    >>> train.view(3).shape                          # doctest: +SKIP
    (1281167, 2048)
    """
    path = location(path)
    if not has_zarr_metadata(path):
        if is_store(path):
            raise StoreDamagedError(f"'{path}/zarr.json' is missing; restore it from a copy, or embed again.")
        what = "is not an embedding store" if path.exists() else "does not exist"
        raise StoreNotFoundError(f"'{path}' {what}; make one with 'compress-ssl embed DATA STORE'.")
    try:
        root = zarr.open_group(zarr_store(path), mode="r", zarr_format=3, use_consolidated=False)
    except (zarr.errors.ContainsArrayError, zarr.errors.NodeTypeValidationError) as error:
        raise StoreNotFoundError(f"'{path}' is a zarr array, not an embedding store; check the path.") from error
    except StoreError:
        raise
    except UNREADABLE as error:
        raise StoreDamagedError(
            f"'{path}/zarr.json' cannot be read ({error}); restore it from a copy, or embed again."
        ) from error
    attributes = dict(root.attrs)
    if attributes.get("format") != schema.FORMAT_NAME:
        if is_store(path):
            raise StoreDamagedError(f"'{path}/zarr.json' names no format; restore it from a copy, or embed again.")
        raise StoreNotFoundError(f"'{path}' is a zarr group, but not an embedding store; check the path.")
    if attributes.get("version") != schema.FORMAT_VERSION:
        raise StoreVersionError(
            f"'{path}' has format version {attributes.get('version')}, but this release reads version "
            f"{schema.FORMAT_VERSION}; upgrade compress-ssl, or embed again."
        )
    return EmbeddingStore(path, root, attributes)


class EmbeddingStore:
    """An open store: a mapping from split name to ``Split``."""

    def __init__(self, path: Place, root: zarr.Group, attributes: Mapping[str, Any]) -> None:
        self.path = path
        self.attributes = attributes
        names = attributes.get("splits")
        if not isinstance(names, list):
            raise StoreDamagedError(f"'{path}/zarr.json' names no splits; restore it from a copy, or embed again.")
        check_split_names(path, names)
        self._splits = {name: _open_split(path / name, root) for name in sorted(names)}

    @property
    def split_names(self) -> list[str]:
        """Names of the splits, sorted."""
        return list(self._splits)

    def __getitem__(self, name: str) -> Split:
        if name not in self._splits:
            raise StoreError(f"'{self.path}' has no split '{name}'; it has {', '.join(self.split_names) or 'none'}.")
        return self._splits[name]


def _open_split(path: Place, root: zarr.Group) -> Split:
    metadata = f"'{path}/zarr.json'"
    try:
        # Without what was consolidated in it: that would be read before it is checked.
        group = zarr.open_group(root.store, path=path.name, mode="r", zarr_format=3, use_consolidated=False)
        return Split(path, group)
    except StoreError:
        raise
    except (KeyError, zarr.errors.GroupNotFoundError) as error:
        what = "is missing" if not has_zarr_metadata(path) else f"lacks {error}"
        raise StoreDamagedError(f"{metadata} {what}; restore it from a copy, or embed again.") from error
    except UNREADABLE as error:
        raise StoreDamagedError(
            f"{metadata} cannot be read ({error}); restore it from a copy, or embed again."
        ) from error
