"""The writer's lease of a store on an object store, which has no locks: conditional puts.

The lease is an object beside the store (``NAME.lease``), with the same content as on a disk. It is taken by a put that
fails if there is one, and renewed by puts that fail if it is no longer the one that was put last.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from typing import TYPE_CHECKING, Protocol

from compress_ssl.storage.errors import StoreBusyError, StoreUnreachableError
from compress_ssl.storage.places.connection import PutRefusedError
from compress_ssl.storage.places.lease_holder import busy, heartbeat, identity, is_held, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obstore import PutMode

    from compress_ssl.storage.places.connection import ObjectStat, Version

ATTEMPTS = 10  # how often to look again after another process was quicker


class LeaseObject(Protocol):
    """The operations on the lease's object."""

    def stat(self) -> ObjectStat: ...

    def read_bytes(self) -> bytes: ...

    def write_bytes(self, data: bytes, mode: PutMode) -> Version: ...

    def unlink(self, missing_ok: bool = ...) -> None: ...


@contextlib.contextmanager
def object_lease(store: object, path: LeaseObject) -> Iterator[None]:
    """Hold the lease at ``path`` while the block runs. Raises as ``file_lease``."""
    held = _Lease(store, path)

    def renew() -> bool:
        # A network that fails for a moment must not end the heartbeat of a living process.
        with contextlib.suppress(StoreUnreachableError):
            return held.renew()
        return True

    try:
        with heartbeat(renew):
            yield
    finally:
        held.release()


class _Lease:
    """A lease that this process has put."""

    def __init__(self, store: object, path: LeaseObject) -> None:
        self._path = path
        self._me = identity() | {"holder": uuid.uuid4().hex}
        self._mine: Version = {}
        for _ in range(ATTEMPTS):
            mode: PutMode = "create"
            with contextlib.suppress(FileNotFoundError):
                seen = self._path.stat().version  # before the content, so that a put between the two refuses ours
                other = parse(self._path.read_bytes())
                if other is not None and is_held(other, self._me):
                    raise busy(store, other)
                mode = seen
            if self._put(mode):
                return
        raise StoreBusyError(f"'{store}' is wanted by several writers at once; start one of them.")

    def renew(self) -> bool:
        """Renew the heartbeat; returns False if another process has the lease by now."""
        return self._put(self._mine)

    def release(self) -> None:
        """Delete the lease, if it still is this process's.

        Between the renewal and the deletion another process may take it only once its heartbeat is stale.
        """
        with contextlib.suppress(StoreUnreachableError):
            if self.renew():
                self._path.unlink(missing_ok=True)

    def _put(self, mode: PutMode) -> bool:
        content = json.dumps(self._me | {"heartbeat": time.time()}).encode()
        try:
            self._mine = self._path.write_bytes(content, mode)
        except (PutRefusedError, FileNotFoundError):
            # A put whose answer was lost is sent again, and refused because it was done.
            with contextlib.suppress(FileNotFoundError):
                version = self._path.stat().version
                if self._path.read_bytes() == content:
                    self._mine = version
                    return True
            return False
        return True
