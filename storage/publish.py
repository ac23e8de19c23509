"""Publishing a finished store atomically: there is never half a store to be opened (``Place.replaced``)."""

import contextlib
import logging
from collections.abc import Iterator

from compress_ssl.storage.errors import StoreExistsError
from compress_ssl.storage.places.local import LocalPath
from compress_ssl.storage.places.place import PlaceLike, location
from compress_ssl.storage.recognise import is_store

logger = logging.getLogger(__name__)

RESUME_OR_OVERWRITE = "use --resume to finish it or --overwrite to delete it and start again"
OVERWRITE = "use --overwrite to replace it, or another path"


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
