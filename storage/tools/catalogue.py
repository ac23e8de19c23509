"""All embedding stores below a folder or in a bucket. A damaged store is listed as such and does not end the list."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from compress_ssl.storage.errors import UNREADABLE, StoreError, StoreNotFoundError
from compress_ssl.storage.places.place import Place, PlaceLike, location
from compress_ssl.storage.publish import is_store
from compress_ssl.storage.reader import open_store
from compress_ssl.storage.tools.description import summary

NO_STORES = (".creating", ".deleting", ".copying")  # suffixes of the names of unfinished and of deleted stores


@dataclass(frozen=True)
class CatalogueEntry:
    """One store."""

    path: str
    found: dict[str, Any] = field(default_factory=dict)
    """As ``compress_ssl.storage.tools.description.summary``; empty if the store cannot be read."""
    error: str | None = None  # one sentence, if the store cannot be read


def catalogue(root: PlaceLike) -> Iterator[CatalogueEntry]:
    """Yield every store below a folder or URL, sorted by path; stores inside of stores are not looked for.

    Raises:
        StoreNotFoundError: If there is no such folder, or it is behind https, where nothing can be listed.
    """
    place = location(root)
    if not place.is_writable:
        raise StoreNotFoundError(
            f"'{place}' cannot be listed: a web server shows only what is asked for by name; give a store."
        )
    if not place.is_dir():
        raise StoreNotFoundError(f"'{place}' is not a folder; give one that has stores below it.")
    for path in _stores(place):
        try:
            yield CatalogueEntry(str(path), summary(open_store(path)))
        except StoreError as error:
            yield CatalogueEntry(str(path), error=str(error))
        except (*UNREADABLE, OSError) as error:
            sentence = f"'{path}' cannot be read ({error}); restore a copy, or embed again."
            yield CatalogueEntry(str(path), error=sentence)


def _stores(folder: Place) -> Iterator[Place]:
    try:
        found = not folder.name.endswith(NO_STORES) and is_store(folder)
        below: Iterable[Place] = () if found else folder.folders()
    except (OSError, StoreError):  # a folder that cannot be read
        return
    if found:
        yield folder
    for each in below:
        yield from _stores(each)
