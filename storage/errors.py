"""What can be wrong with a store. Every message names the store, says what is wrong and what to do."""

from __future__ import annotations

UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What zarr raises where metadata are cut short, or are JSON of another form."""


class StoreError(ValueError):
    """Base of all errors about an embedding store."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no embedding store at this path."""


class StoreExistsError(StoreError, FileExistsError):
    """Something is already where a new store was to be written."""


class StoreVersionError(StoreError):
    """The store was written in a format that this release does not read."""


class StoreIncompleteError(StoreError):
    """A view was asked for whose blocks are not all committed."""


class StoreDamagedError(StoreError):
    """A committed part of the store is missing or has other bytes than were committed."""


class StoreUnsafeError(StoreError):
    """What the store says of itself no embedding store says: code, memory or files that it must not get."""


class StoreMismatchError(StoreError):
    """The store was made from other images, or with other settings, than those at hand."""


class StoreBusyError(StoreError):
    """Another process holds the writer's lease of the store."""


class StoreUnreachableError(StoreError):
    """The server that a store is on cannot be reached, or does not let us do what is asked."""


class NotRepresentableError(StoreError):
    """An embedding has a value that float16 cannot hold, or that is not a number."""
