"""The writer's lease of a store: one process writes, a second one gets an error.

The lease is a small JSON file or object beside the store (``NAME.lease``) with the holder's machine, process and
heartbeat. It is taken, renewed and removed only if it is still what was seen before: under ``flock`` on a disk, by
conditional puts on an object store, which has no locks. A holder that died on this machine is noticed at once, one on
another machine when its heartbeat is old.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compress_ssl.storage.errors import StoreBusyError, StoreUnreachableError
from compress_ssl.storage.places.retries import retrying_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 120.0  # age of a heartbeat from another machine after which its holder counts as gone
ATTEMPTS = 10  # how often to look again after another process was quicker


class LeaseSlot(Protocol):
    """A file or an object that holds a lease; ``None`` is the version of one that is not there."""

    def read(self) -> tuple[bytes, Any]:
        """Return content and version; FileNotFoundError if there is none."""

    def put(self, content: bytes, version: Any) -> Any:
        """Write it and return its version; None if it no longer is of the version given."""

    def remove(self, version: Any) -> None:
        """Delete it, if it still is of this version."""

    def kept(self) -> AbstractContextManager[bytes]:
        """Give the content, which where there are locks nobody changes meanwhile; empty if there is none."""


@dataclass(frozen=True)
class Lease:
    """The lease of one writer; it can be sent to processes that write for it."""

    store: object
    slot: LeaseSlot
    holder: str  # a random name: no two writers have the same, and no writer twice

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Run the block under the lease, which on a disk nobody can take meanwhile.

        Raises:
            StoreBusyError: If another writer has taken it, as after a suspension of this one.
        """
        with self.slot.kept() as content:
            lease = parse(content)
            if lease is None or lease.get("holder") != self.holder:
                raise StoreBusyError(
                    f"'{self.store}' was taken over by another writer while this one did not answer; nothing more was "
                    "written to it."
                )
            yield

    def check(self) -> None:
        """Raise StoreBusyError if another writer has taken the lease."""
        with self.held():
            pass


@contextlib.contextmanager
def hold_lease(store: object, slot: LeaseSlot) -> Iterator[Lease]:
    """Hold the writer's lease of a store while the block runs; a thread renews its heartbeat.

    Raises:
        StoreBusyError: If a living process holds it.
    """
    lease_of_mine = Lease(store, slot, uuid.uuid4().hex)
    me = identity() | {"holder": lease_of_mine.holder}
    mine: Any = None  # version of the lease that this process has put; None if another process has it
    ended = threading.Event()

    def put(version: Any) -> Any:
        """Put the lease with a new heartbeat; returns its version, None if another process has it by now."""
        new = slot.put(json.dumps(me | {"heartbeat": time.time()}).encode(), version)
        if new is None:  # a put whose answer was lost is sent again, and refused because it was done
            lease, seen = _read(slot)
            return seen if lease is not None and lease.get("holder") == me["holder"] else None
        return new

    def beat() -> None:
        nonlocal mine
        while mine is not None and not ended.wait(HEARTBEAT_SECONDS):
            # A disk or a network that fails for a moment must not end the heartbeat of a living process.
            with contextlib.suppress(OSError, StoreUnreachableError), retrying_for(HEARTBEAT_SECONDS):
                mine = put(mine)

    for _ in range(ATTEMPTS):
        lease, seen = _read(slot)
        if lease is not None and is_held(lease, me):
            raise StoreBusyError(
                f"'{store}' is being written by process {lease['process']} on {lease['machine'].split()[0]} (last "
                f"heartbeat {max(0, time.time() - lease['heartbeat']):.0f} s ago); wait for it, or stop it first."
            )
        mine = put(seen)
        if mine is not None:
            break
    else:
        raise StoreBusyError(f"'{store}' is wanted by several writers at once; start one of them.")
    thread = threading.Thread(target=beat, name="lease-heartbeat", daemon=True)
    thread.start()
    try:
        yield lease_of_mine
    finally:
        ended.set()
        thread.join()
        # Between the renewal and the deletion another process may take it only once its heartbeat is stale.
        with contextlib.suppress(OSError, StoreUnreachableError), retrying_for(HEARTBEAT_SECONDS):
            if mine is not None and (last := put(mine)) is not None:
                slot.remove(last)


def _read(slot: LeaseSlot) -> tuple[dict[str, Any] | None, Any]:
    try:
        content, version = slot.read()
    except FileNotFoundError:
        return None, None
    return parse(content), version


def identity() -> dict[str, Any]:
    """Return what identifies this process among all processes on all machines."""
    pid = os.getpid()
    # Machines and containers can share a host name; a boot id and a pid namespace together identify a set of processes.
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    machine = f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    return {"machine": machine, "process": pid, "started": _process_start(pid)}


def _process_start(pid: int) -> str | None:
    """Return the kernel's start time of a process: it distinguishes processes that had the same number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


def parse(content: bytes) -> dict[str, Any] | None:
    """Return the lease that a file holds; None if it holds none."""
    try:
        lease = json.loads(content)
    except ValueError:  # empty: just created; cut short: its holder died while writing it
        return None
    known = isinstance(lease, dict) and lease.keys() >= {"machine", "process", "started", "heartbeat"}
    return lease if known else None


def is_held(lease: dict[str, Any], me: dict[str, Any]) -> bool:
    """Return whether the holder of a lease is alive, as far as this process can see."""
    if lease["machine"] == me["machine"]:
        return bool(_process_start(lease["process"]) == lease["started"])
    return bool(time.time() - lease["heartbeat"] < STALE_SECONDS)


@dataclass(frozen=True)
class LeaseFile:
    """A lease on a disk; its version is its content."""

    path: Path

    def read(self) -> tuple[bytes, bytes]:
        content = self.path.read_bytes()
        return content, content

    def put(self, content: bytes, version: bytes | None) -> bytes | None:
        with self._locked() as descriptor:
            if os.pread(descriptor, 65536, 0) != (version or b""):
                return None
            os.pwrite(descriptor, content, 0)
            os.ftruncate(descriptor, len(content))
        return content

    def remove(self, version: bytes) -> None:
        with self._locked() as descriptor:
            if os.pread(descriptor, 65536, 0) == version:
                self.path.unlink()

    @contextlib.contextmanager
    def kept(self) -> Iterator[bytes]:
        content = b""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(FileNotFoundError):
                content = os.pread(stack.enter_context(self._locked(os.O_RDONLY, fcntl.LOCK_SH)), 65536, 0)
            yield content

    @contextlib.contextmanager
    def _locked(self, flags: int = os.O_RDWR | os.O_CREAT, lock: int = fcntl.LOCK_EX) -> Iterator[int]:
        """Open the file, created if there is none, under a lock."""
        while True:
            descriptor = os.open(self.path, flags, 0o664)
            try:
                fcntl.flock(descriptor, lock)
                if self._has_name(descriptor):  # not if it was released and removed between our open and our lock
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    def _has_name(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False
