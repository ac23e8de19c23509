"""Recognising a store without opening it; publishing one atomically: there is never half a store to be opened."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from compress_ssl.storage.errors import StoreError, StoreExistsError, UnreadableFileError
from compress_ssl.storage.places.local import LocalPath
from compress_ssl.storage.places.names import ROOT
from compress_ssl.storage.places.place import PlaceLike, location
from compress_ssl.storage.schema import FORMAT_NAME
from compress_ssl.storage.typed_files import read_json
from compress_ssl.storage.typed_json import FileModel

logger = logging.getLogger(__name__)

RESUME_OR_OVERWRITE = "use --resume to finish it or --overwrite to delete it and start again"
OVERWRITE = "use --overwrite to replace it, or another path"


class _Group(FileModel):
    attributes: dict[str, Any]


def is_store(place: PlaceLike) -> bool:
    """Return whether a folder is an embedding store, of any version and however damaged: it may be deleted as one."""
    folder = location(place)
    try:
        return bool(read_json(folder.inside(ROOT), _Group).attributes.get("format") == FORMAT_NAME)
    except UnreadableFileError:
        damaged = True
    except StoreError:
        raise
    except OSError:
        damaged = folder.is_dir()
    return damaged and next(folder.glob("*/embeddings/commits"), None) is not None


def has_zarr_metadata(place: PlaceLike) -> bool:
    """Return whether a folder is meant as a store: if it is none, the error of ``open_store`` explains why."""
    return (location(place) / ROOT).is_file()


def is_meant_as_store(text: str) -> bool:
    """Return whether a user who names a store or a network means a store: a URL, or a folder with zarr's metadata."""
    place = location(text)
    return not place.is_local or has_zarr_metadata(place)


@contextlib.contextmanager
def new_store(place: PlaceLike) -> Iterator[LocalPath]:
    """Give a folder to build a store in; when the block ends, it replaces the store at ``place``."""
    target = location(place)
    with target.replaced() as building:
        yield building
        check_place(target, overwrite=True)  # what was put there meanwhile stays
        if is_store(target):
            logger.warning("Deleting the embedding store '%s'; a new one takes its place.", target)


def check_place(place: PlaceLike, *, overwrite: bool, instead: str = RESUME_OR_OVERWRITE) -> None:
    """Check that a new store may be written at ``place``; ``instead`` is the advice if a store is there.

    Raises:
        StoreExistsError: If something is there: a store that may not be overwritten, or what is not a store.
        StoreError: If it is a place that can only be read.
    """
    target = location(place)
    target.check_writable()
    if target.is_half_created():
        return
    if is_store(target):
        if not overwrite:
            raise StoreExistsError(f"'{target}' exists already; {instead}.")
    elif target.is_dir():
        if next(target.iterdir(), None) is not None:
            raise StoreExistsError(f"'{target}' is not empty and not an embedding store; give another path.")
    elif target.exists():
        raise StoreExistsError(f"'{target}' is a file; give another path for the store.")


def is_there(place: PlaceLike) -> bool:
    """Return whether there is anything at a place, an interrupted creation aside."""
    target = location(place)
    return target.exists() and not target.is_half_created()
