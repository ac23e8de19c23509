"""Putting a store that stands ready into its place, so that there is never half a store to be opened.

On a disk it is built beside its place and renamed. An object store cannot rename: there the object ``NAME.creating`` is
put beside the place; of an old store the root's ``zarr.json`` is deleted first; of the new one it is written last.
Without it there is no store, and the object beside tells that what is there may be deleted.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from compress_ssl.storage.commits import REQUESTS
from compress_ssl.storage.places.durable import flush_directory, write_durably
from compress_ssl.storage.places.remote import RemotePath
from compress_ssl.storage.reader import is_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compress_ssl.storage.places.remote import Place

logger = logging.getLogger(__name__)

ROOT = "zarr.json"


@contextlib.contextmanager
def new_store(place: Place) -> Iterator[Path]:
    """A folder to build a store in; when the block ends, what it holds replaces the store at ``place``."""
    if isinstance(place, RemotePath):
        with tempfile.TemporaryDirectory(prefix="compress-ssl-") as folder:
            yield Path(folder)
            _tell_what_goes(place)
            with creating(place):
                place.remove_tree()
                _upload(Path(folder), place)
        return
    place = place.resolve()
    building, deleting = (place.with_name(f"{place.name}.{doing}") for doing in ("creating", "deleting"))
    for leftover in (building, deleting):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        yield building
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    if _tell_what_goes(place):
        place.rename(deleting)
    building.rename(place)
    flush_directory(place.parent)
    shutil.rmtree(deleting, ignore_errors=True)


@contextlib.contextmanager
def creating(place: RemotePath) -> Iterator[None]:
    """While the block runs there is no store at ``place``; if it does not end, there is none until one is put anew."""
    beside = _beside(place)
    write_durably(beside, f"The store {place.name} is being created, or that was broken off.\n".encode())
    (place / ROOT).unlink(missing_ok=True)
    yield
    beside.unlink(missing_ok=True)


def is_half_created(place: Place) -> bool:
    """Whether the creation of a store here was broken off: what there is of it may be deleted."""
    return isinstance(place, RemotePath) and _beside(place).is_file() and not (place / ROOT).is_file()


def is_there(place: Place) -> bool:
    """Whether there is anything at a place."""
    return place.exists() and not is_half_created(place)


def generation(place: Place) -> object:
    """What tells a store from a later one at its place; None if there is none."""
    with contextlib.suppress(FileNotFoundError):
        if not isinstance(place, RemotePath):
            return place.stat().st_ino
        stat = (place / ROOT).stat()
        return stat.version, stat.changed
    return None


def _tell_what_goes(place: Place) -> bool:
    goes = is_store(place)
    if goes:
        logger.warning("Deleting the embedding store '%s'; a new one takes its place.", place)
    return goes


def _beside(place: RemotePath) -> RemotePath:
    return place.with_name(f"{place.name}.creating")


def _upload(folder: Path, place: RemotePath) -> None:
    files = [file for file in folder.rglob("*") if file.is_file() and file != folder / ROOT]
    with ThreadPoolExecutor(REQUESTS) as pool:
        list(
            pool.map(lambda file: write_durably(place / file.relative_to(folder).as_posix(), file.read_bytes()), files)
        )
    write_durably(place / ROOT, (folder / ROOT).read_bytes())
