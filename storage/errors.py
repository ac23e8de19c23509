"""Errors about a store or a file beside it. Every message names the store, what is wrong and what to do.

A ``StoreError`` is wrong use or a bad store (exit code 2), but for ``StoreFailedError``, a failure of a server or a
disk (exit code 1). A disk that is full or read-only while files are written raises ``OSError`` with ``errno`` and
``filename``.
"""

import difflib
from collections.abc import Iterable

UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""Raised by zarr where metadata is cut short, or is JSON of another form."""


class StoreError(ValueError):
    """Base of all errors about an embedding store."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no embedding store at this path."""


class StoreExistsError(StoreError, FileExistsError):
    """The place of a new store is taken."""


class StoreVersionError(StoreError):
    """The store has a format version that this release does not read."""


class StoreIncompleteError(StoreError):
    """A requested view has blocks that are not committed."""


class StoreDamagedError(StoreError):
    """A committed part of the store is missing or has other bytes than were committed."""


class UnreadableFileError(StoreDamagedError):
    """A small file, of a store or beside one, is damaged or something else (``compress_ssl.storage.typed_files``)."""

    def __init__(self, where: object, fault: str, otherwise: str) -> None:
        super().__init__(f"'{where}' {fault}; {otherwise}.")
        self.fault = fault  # what is wrong, without the file's name: "is not valid JSON (...)"


class StoreUnsafeError(StoreError):
    """The store would run code, read files outside it or take more memory than its data, or has impossible values."""


class StoreMismatchError(StoreError):
    """The store was made from other images, or with other settings, than those given."""


class StoreBusyError(StoreError):
    """Another process holds the writer's lease of the store."""


class NotRepresentableError(StoreError):
    """An embedding has a value that float16 cannot represent."""


class StoreFailedError(StoreError):
    """A server or a disk failed; the same call can succeed later (exit code 1)."""


class StoreUnreachableError(StoreFailedError):
    """The server of a store cannot be reached, or fails."""


class StoreRefusedError(StoreUnreachableError):
    """The server of a store refuses: the bucket's name or the credentials must be corrected (exit code 2)."""


class DiskSpaceError(StoreFailedError):
    """The disk has less free space than is needed; nothing half-written is left."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question that names the nearest of some names, behind a blank; nothing if none is near."""
    nearest = difflib.get_close_matches(name, [*known], n=1)
    return f" Did you mean '{nearest[0]}'?" if nearest else ""
