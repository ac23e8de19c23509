"""Places of stores: one protocol for a path of this machine (``LocalPath``) and a URL (``RemotePath``)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeAlias

from compress_ssl.storage.errors import StoreError
from compress_ssl.storage.places.lease import Lease, LeaseSlot, hold_lease, is_held, parse
from compress_ssl.storage.places.local import LocalPath
from compress_ssl.storage.places.remote import RemotePath
from compress_ssl.storage.places.urls import is_url, split_url

if TYPE_CHECKING:
    import io
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import PurePath


class Place(Protocol):
    """A file or folder of this machine, or an object or a folder of objects behind a URL.

    The methods that ``pathlib.Path`` has do what they do there. On failure they raise ``OSError``; of a server,
    ``StoreUnreachableError``.
    """

    is_local: ClassVar[bool]  # true on a disk of this machine, where looking at a file costs no request

    @property
    def is_writable(self) -> bool:
        """False for a web server, which can only be read, and not be listed."""

    @property
    def name(self) -> str: ...

    @property
    def parent(self) -> Self: ...

    def __truediv__(self, below: str, /) -> Self: ...

    def with_name(self, name: str) -> Self: ...

    def relative_to(self, folder: Any, /) -> PurePath: ...

    def resolve(self) -> Self: ...

    def absolute(self) -> Self: ...

    def read_bytes(self, limit: int | None = ...) -> bytes:
        """Return the content of a regular file; OSError (EINVAL, EFBIG) if it is none, or has more than ``limit``."""

    def reading(self, limit: int | None = ...) -> AbstractContextManager[io.BufferedIOBase]:
        """Give a regular file to be read from its beginning. Raises as ``read_bytes``."""

    def is_file(self) -> bool: ...

    def is_dir(self) -> bool: ...

    def exists(self) -> bool: ...

    def iterdir(self) -> Iterator[Self]: ...

    def glob(self, pattern: str, /) -> Iterator[Self]: ...

    def unlink(self, missing_ok: bool = ...) -> None: ...

    def size(self) -> int:
        """Return the size in bytes of a file."""

    def folders(self) -> Iterable[Self]:
        """Return the folders directly below, sorted; links to folders are none."""

    def files(self) -> Iterator[Self]:
        """Yield all files below, however deep."""

    def write_durably(self, data: bytes | bytearray | memoryview) -> None:
        """Write a file with the folders it is in: whole and on the disk, or not at all."""

    def check_writable(self) -> None:
        """Raise StoreError for a place that can only be read, or that is a whole bucket."""

    def remove_tree(self) -> None:
        """Delete all that is below, as far as possible."""

    def sweep_partial_files(self) -> int:
        """Delete what killed writers left below and beside, and return how many files there were below.

        Only the holder of the writer's lease may call this: a file that another writer is writing looks the same.
        """

    def make_read_only(self) -> None:
        """Make every file below read-only, and readable by the group; folders stay as writable as they are."""

    def lease_slot(self) -> LeaseSlot:
        """Return where the writer's lease of the store here is."""

    def inside(self, key: str) -> Self:
        """Return what is below by its key; StoreUnsafeError if it or a folder of it is a link, a FIFO or a device."""

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of every file below, by its key."""

    def replaced(self) -> AbstractContextManager[LocalPath]:
        """Give a folder to build a store in; if the block succeeds, it replaces what is here at once."""

    def assembled(self, whole: str) -> AbstractContextManager[Self]:
        """Give a place to copy a store to, with what an interrupted copy left; a store once the block ends.

        Args:
            whole: What the copied store is known by; what copies of others left is deleted.
        """

    def is_half_created(self) -> bool:
        """Return True if the creation of a store here was interrupted, and what there is of it may be deleted."""

    def existing_parent(self) -> Self:
        """Return the nearest folder above that exists."""

    def free_bytes(self) -> int | None:
        """Return the bytes that may still be written here; None if nobody knows."""

    def scratch(self) -> AbstractContextManager[Self]:
        """Give a place on the same disk or server that is removed in the end."""


PlaceLike: TypeAlias = str | Path | Place  # whatever names a place: a URL or a path


def location(place: PlaceLike) -> Place:
    """Return the place that a user means: a URL if the text begins as one, else a path.

    Raises:
        StoreError: If it is no URL that a store can have; the message leaves out the secrets that it may hold.
    """
    if isinstance(place, LocalPath | RemotePath):
        return place
    text = str(place)
    return RemotePath(*split_url(text)) if is_url(text) else LocalPath(text)


def writer_lease(store: PlaceLike) -> AbstractContextManager[Lease]:
    """Hold the writer's lease of a store or a run while the block runs; ``Lease.check`` tells whether it is lost.

    Raises:
        StoreBusyError: If a living process holds it.
    """
    place = location(store)
    return hold_lease(place, place.lease_slot())


def lease_holder(store: PlaceLike) -> dict[str, Any] | None:
    """Return the lease of the process that writes a store now; None if there is none, or it cannot be read."""
    place = location(store).resolve()
    try:
        file = place.with_name(f"{place.name}.lease")
        lease = parse(file, file.read_bytes())
    except (OSError, StoreError):
        return None
    living = lease is not None and is_held(lease, lambda: time.time() - lease.heartbeat)
    return lease.model_dump() if lease is not None and living else None
