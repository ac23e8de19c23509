"""The writer's lease of a store on an object store, which has no locks: conditional puts.

The lease is an object beside the store (``NAME.lease``), with the same content as on a disk. It is taken by a put that
fails where there is one, and renewed by puts that fail where it is no longer the one that was put last.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from typing import TYPE_CHECKING

from obstore.exceptions import AlreadyExistsError, PreconditionError

from compress_ssl.storage.errors import StoreBusyError, StoreUnreachableError
from compress_ssl.storage.places.lease import busy, heartbeat, identity, is_held, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obstore import PutMode

    from compress_ssl.storage.places.remote import RemotePath, Version

ATTEMPTS = 10
"""How often to look again after another process was quicker."""

REFUSED = (AlreadyExistsError, PreconditionError)


@contextlib.contextmanager
def remote_lease(store: RemotePath) -> Iterator[None]:
    """Hold the writer's lease of a store while the block runs. Raises as ``writer_lease``."""
    held = _Lease(store)

    def renew() -> bool:
        # A network that fails for a moment must not end the heartbeat of a process that lives on.
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

    def __init__(self, store: RemotePath) -> None:
        self._path = store.with_name(f"{store.name}.lease")
        self._me = identity() | {"holder": uuid.uuid4().hex}
        self._mine: Version = {}
        for _ in range(ATTEMPTS):
            mode: PutMode = "create"
            with contextlib.suppress(FileNotFoundError):
                seen = self._path.stat().version  # before the content, so that what is put between the two stands
                other = parse(self._path.read_bytes())
                if other is not None and is_held(other, self._me):
                    raise busy(store, other)
                mode = seen
            if self._put(mode):
                return
        raise StoreBusyError(f"'{store}' is wanted by several writers at once; start one of them.")

    def renew(self) -> bool:
        """Tell that this process lives; false where the lease is another's by now."""
        return self._put(self._mine)

    def release(self) -> None:
        """Delete the lease, if it still is this process's.

        Between the last look and the deletion another one may only take it after its heartbeat has gone stale.
        """
        with contextlib.suppress(StoreUnreachableError):
            if self.renew():
                self._path.unlink(missing_ok=True)

    def _put(self, mode: PutMode) -> bool:
        content = json.dumps(self._me | {"heartbeat": time.time()}).encode()
        try:
            self._mine = self._path.write_bytes(content, mode)
        except (*REFUSED, FileNotFoundError):
            # A put whose answer was lost is sent again, and refused because it was done.
            with contextlib.suppress(FileNotFoundError):
                version = self._path.stat().version
                if self._path.read_bytes() == content:
                    self._mine = version
                    return True
            return False
        return True
