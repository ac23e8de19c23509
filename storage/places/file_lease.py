"""The writer's lease of a store on a disk: one process writes, a second one gets an error.

The lease is a small JSON file beside the store (``NAME.lease``) with the holder's machine, process and heartbeat. It is
only changed under ``flock``, so two processes cannot both take it. A holder that died on this machine is noticed at
once, one on another machine when its heartbeat is old.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from typing import TYPE_CHECKING, Any

from compress_ssl.storage.places.lease_holder import busy, heartbeat, identity, is_held, parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def file_lease(store: Path) -> Iterator[None]:
    """Hold the writer's lease of a store while the block runs.

    Raises:
        StoreBusyError: If a living process holds it.
    """
    place = store.resolve()
    path = place.with_name(f"{place.name}.lease")
    path.parent.mkdir(parents=True, exist_ok=True)
    me = identity()
    with _locked(path) as descriptor:
        lease = _read(descriptor)
        if lease is not None and is_held(lease, me):
            raise busy(store, lease)
        _write(descriptor, me)

    def renew() -> bool:
        # A disk that fails for a moment must not end the heartbeat of a living process.
        with contextlib.suppress(OSError), _locked(path) as descriptor:
            if _is_mine(descriptor, me):
                _write(descriptor, me)
        return True

    try:
        with heartbeat(renew):
            yield
    finally:
        with _locked(path) as descriptor:
            if _is_mine(descriptor, me):
                path.unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open the lease file under an exclusive lock; the file is the one that has the name now."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o664)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _has_name(descriptor, path):  # not if it was released and removed between our open and our lock
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _has_name(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> dict[str, Any] | None:
    return parse(os.pread(descriptor, 65536, 0))


def _is_mine(descriptor: int, me: dict[str, Any]) -> bool:
    lease = _read(descriptor)
    return lease is not None and {key: lease[key] for key in me} == me


def _write(descriptor: int, me: dict[str, Any]) -> None:
    content = json.dumps(me | {"heartbeat": time.time()}).encode()
    os.pwrite(descriptor, content, 0)
    os.ftruncate(descriptor, len(content))
