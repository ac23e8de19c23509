"""The writer's lease: one process writes a store, a second one ends with a sentence.

The lease is a small JSON file beside the store (``NAME.lease``) with the holder's machine, process and
heartbeat. Every change of it happens under ``flock``, so two processes cannot both take it. A holder that
died on this machine is noticed at once; one on another machine when its heartbeat is old.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_ssl.storage.errors import StoreBusyError, StoreError
from compress_ssl.storage.places.remote import RemotePath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from compress_ssl.storage.places.remote import Place

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 120.0
"""Age of a heartbeat from another machine after which its holder counts as gone."""


def _process_start(pid: int) -> str | None:
    """Kernel's start time of a process (it tells a process from a later one of the same number)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


def identity() -> dict[str, Any]:
    """What tells this process from all others, on all machines."""
    pid = os.getpid()
    # Machines and containers can share a host name; a boot and a pid namespace together share their processes.
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    machine = f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    return {"machine": machine, "process": pid, "started": _process_start(pid)}


def is_held(lease: dict[str, Any], me: dict[str, Any]) -> bool:
    """Whether the holder of a lease lives, as far as this process can tell."""
    if lease["machine"] == me["machine"]:
        return bool(_process_start(lease["process"]) == lease["started"])
    return bool(time.time() - lease["heartbeat"] < STALE_SECONDS)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open the lease file under an exclusive lock; the file is the one that has the name now."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o664)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _has_name(descriptor, path):  # not so if released and removed between our open and our lock
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _has_name(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def parse(content: bytes) -> dict[str, Any] | None:
    """The lease in a file; None where it holds none."""
    try:
        lease = json.loads(content)
    except ValueError:  # empty: just created; cut short: its holder died while writing it
        return None
    known = isinstance(lease, dict) and lease.keys() >= {"machine", "process", "started", "heartbeat"}
    return lease if known else None


def _is_mine(descriptor: int, me: dict[str, Any]) -> bool:
    lease = parse(os.pread(descriptor, 65536, 0))
    return lease is not None and {key: lease[key] for key in me} == me


def _write(descriptor: int, lease: dict[str, Any]) -> None:
    content = json.dumps(lease).encode()
    os.pwrite(descriptor, content, 0)
    os.ftruncate(descriptor, len(content))


def lease_holder(store: Place) -> dict[str, Any] | None:
    """The lease of the process that writes a store now; None if there is none, or it cannot be seen."""
    place = store.resolve()
    try:
        lease = parse(place.with_name(f"{place.name}.lease").read_bytes())
    except (OSError, StoreError):
        return None
    return lease if lease is not None and is_held(lease, identity()) else None


def busy(store: Place, lease: dict[str, Any]) -> StoreBusyError:
    """An error that names the holder."""
    return StoreBusyError(
        f"'{store}' is being written by process {lease['process']} on {lease['machine'].split()[0]} (last sign of life "
        f"{max(0, time.time() - lease['heartbeat']):.0f} s ago); wait for it, or stop it first."
    )


@contextlib.contextmanager
def writer_lease(store: Place) -> Iterator[None]:
    """Hold the writer's lease of a store while the block runs.

    Raises
    ------
    StoreBusyError
        If a living process holds it.
    """
    if isinstance(store, RemotePath):
        from compress_ssl.storage.places.remote_lease import remote_lease

        with remote_lease(store):
            yield
        return
    place = store.resolve()
    path = place.with_name(f"{place.name}.lease")
    path.parent.mkdir(parents=True, exist_ok=True)
    me = identity()
    with _locked(path) as descriptor:
        lease = parse(os.pread(descriptor, 65536, 0))
        if lease is not None and is_held(lease, me):
            raise busy(store, lease)
        _write(descriptor, me | {"heartbeat": time.time()})

    def renew() -> bool:
        # A disk that fails for a moment must not end the heartbeat of a process that lives on.
        with contextlib.suppress(OSError), _locked(path) as descriptor:
            if _is_mine(descriptor, me):
                _write(descriptor, me | {"heartbeat": time.time()})
        return True

    try:
        with heartbeat(renew):
            yield
    finally:
        with _locked(path) as descriptor:
            if _is_mine(descriptor, me):
                path.unlink()


@contextlib.contextmanager
def heartbeat(renew: Callable[[], bool]) -> Iterator[None]:
    """Renew a lease from a thread while the block runs, until ``renew`` says that it is lost."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            if not renew():
                return

    heart = threading.Thread(target=beat, name="lease-heartbeat", daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
