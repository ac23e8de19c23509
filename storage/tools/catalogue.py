"""All stores below a folder or in a bucket. One that is damaged is listed as such; nothing it holds ends the list."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_ssl.storage.errors import UNREADABLE, StoreError, StoreNotFoundError
from compress_ssl.storage.places.remote import RemotePath
from compress_ssl.storage.reader import is_store, open_store
from compress_ssl.storage.tools.description import summary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compress_ssl.storage.places.remote import Place

NO_STORES = (".creating", ".deleting", ".copying")
"""Ends of the names of what is on its way to be a store, or on its way out."""


@dataclass(frozen=True)
class CatalogueEntry:
    """One store."""

    path: str
    found: dict[str, Any] = field(default_factory=dict)
    """As ``compress_ssl.storage.tools.description.summary``; empty where it cannot be read."""
    error: str | None = None
    """One sentence, where it cannot be read."""


def catalogue(root: Place) -> Iterator[CatalogueEntry]:
    """Yield every store below a folder or URL, in the order of their paths; those inside of stores are none.

    Raises
    ------
    StoreNotFoundError
        If there is no such folder, or it is behind https, where nothing can be listed.
    """
    if isinstance(root, RemotePath) and not root.is_writable:
        raise StoreNotFoundError(
            f"'{root}' cannot be listed: a web server shows what is asked for by name only; give a store."
        )
    if not root.is_dir():
        raise StoreNotFoundError(f"'{root}' is not a folder; give one that has stores below it.")
    for path in _stores(root):
        yield _entry(path)


def _stores(folder: Place) -> Iterator[Place]:
    if _is_store(folder):
        yield folder
        return
    for below in _folders(folder):
        yield from _stores(below)


def _is_store(folder: Place) -> bool:
    try:
        return not folder.name.endswith(NO_STORES) and is_store(folder)
    except (OSError, StoreError):
        return False


def _folders(folder: Place) -> list[Place]:
    """Folders below, sorted; none where they cannot be looked at."""
    try:
        if isinstance(folder, RemotePath):
            return list(folder.folders())
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except (OSError, StoreError):
        return []


def _entry(path: Place) -> CatalogueEntry:
    try:
        return CatalogueEntry(str(path), summary(open_store(path)))
    except StoreError as error:
        return CatalogueEntry(str(path), error=str(error))
    except (*UNREADABLE, OSError) as error:
        return CatalogueEntry(str(path), error=f"'{path}' cannot be read ({error}); restore a copy, or embed again.")
