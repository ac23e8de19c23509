"""The writer's lease of a store or a run: one process writes, a second one gets an error.

The lease is a small JSON file or object beside the store (``NAME.lease``) with the holder's machine, process and
heartbeat. It is taken, renewed and removed only if it is still what was seen before: under ``flock`` on a disk, by
conditional puts on an object store, which has no locks. A holder that died on this machine is noticed at once, one on
another machine when its lease has not been renewed for two minutes, by the clock of the disk or server that holds it.

A holder that was suspended meanwhile, or cut off, must write nothing more: whatever is written at a leased place gets
its name under the lease (``lease_over``, ``Lease.held``).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compress_ssl.storage.errors import StoreBusyError, StoreError, StoreUnreachableError, UnreadableFileError
from compress_ssl.storage.places.durable import naming
from compress_ssl.storage.places.retries import retrying_for
from compress_ssl.storage.typed_json import FileModel, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 120.0  # age of another machine's lease after which its holder counts as gone
ATTEMPTS = 10  # how often to look again after another process was quicker
SUFFIX = ".lease"


class LeaseRecord(FileModel):
    """What a lease says of its holder."""

    machine: str
    process: int
    started: str | None  # the kernel's start time of the process
    heartbeat: float  # seconds since 1970 by the holder's clock, to be shown: clocks of machines are not compared
    holder: str = ""


class LeaseSlot(Protocol):
    """A file or an object that holds a lease; ``None`` is the version of one that is not there."""

    @property
    def path(self) -> Any: ...

    def read(self) -> tuple[bytes, Any]:
        """Return content and version; FileNotFoundError if there is none."""

    def put(self, content: bytes, version: Any) -> Any:
        """Write it and return its version; None if it no longer is of the version given."""

    def remove(self, version: Any) -> None:
        """Delete it, if it still is of this version."""

    def kept(self) -> AbstractContextManager[bytes]:
        """Give the content, which where there are locks nobody changes meanwhile; empty if there is none."""

    def age(self) -> float:
        """Return the seconds since it was put, by the clock of the disk or server that it is on."""


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
        with contextlib.ExitStack() as stack:
            with naming(self.slot.path):
                content = stack.enter_context(self.slot.kept())
            lease = parse(self.slot.path, content)
            if lease is None or lease.holder != self.holder:
                raise StoreBusyError(
                    f"'{self.store}' was taken over by another writer while this one did not answer; this one has "
                    "ended, and the other goes on."
                )
            yield

    def check(self) -> None:
        """Raise StoreBusyError if another writer has taken the lease."""
        with self.held():
            pass

    @property
    def place(self) -> str:
        """The store's or run's place, without links on the way to it."""
        return str(self.slot.path).removesuffix(SUFFIX)

    def join(self) -> None:
        """Write for the holder of this lease from now on, in this process."""
        _leases[self.place] = self


_leases: dict[str, Lease] = {}  # of this process, by place


def lease_over(place: Any) -> Lease | None:
    """Return the lease under which this process writes a place, or a store or run that the place is in."""
    name = str(place.resolve())
    while name and name not in _leases:
        name = name.rpartition("/")[0]
    return _leases.get(name)


def held_over(place: Any) -> AbstractContextManager[None]:
    """Run the block under the lease of what the place is in, if this process has one. Raises as ``Lease.held``."""
    lease = lease_over(place)
    return lease.held() if lease else contextlib.nullcontext()


@contextlib.contextmanager
def hold_lease(store: object, slot: LeaseSlot) -> Iterator[Lease]:
    """Hold the writer's lease of a store while the block runs; a thread renews its heartbeat.

    Raises:
        StoreBusyError: If a living process holds it; if another writer has taken it during the block.
        StoreError: If something else has the lease's name, or it cannot be written.
    """
    lease = Lease(store, slot, uuid.uuid4().hex)
    me = identity()
    mine: Any = None  # version of the lease that this process has put; None if another process has it
    ended = threading.Event()

    def put(version: Any) -> Any:
        """Put the lease with a new heartbeat; returns its version, None if another process has it by now."""
        content = me.model_copy(update={"heartbeat": time.time(), "holder": lease.holder}).model_dump_json().encode()
        new = slot.put(content, version)
        if new is None:  # a put whose answer was lost is sent again, and refused because it was done
            found, seen = _read(slot)
            return seen if found is not None and found.holder == lease.holder else None
        return new

    def beat() -> None:
        nonlocal mine
        while mine is not None and not ended.wait(HEARTBEAT_SECONDS):
            # A disk or a network that fails for a moment must not end the heartbeat of a living process.
            with contextlib.suppress(OSError, StoreError), retrying_for(HEARTBEAT_SECONDS):
                mine = put(mine)

    with _explained(slot):
        for _ in range(ATTEMPTS):
            found, seen = _read(slot)
            if found is not None and is_held(found, slot.age):
                raise StoreBusyError(
                    f"'{store}' is being written by process {found.process} on {found.machine.partition(' ')[0]} (last "
                    f"heartbeat {max(0, time.time() - found.heartbeat):.0f} s ago); wait for it, or stop it first."
                )
            mine = put(seen)
            if mine is not None:
                break
        else:
            raise StoreBusyError(f"'{store}' is wanted by several writers at once; start one of them.")
    thread = threading.Thread(target=beat, name="lease-heartbeat", daemon=True)
    thread.start()
    lease.join()
    try:
        yield lease
    except Exception:  # what another writer does to the store may show as any
        with contextlib.suppress(OSError, StoreUnreachableError), retrying_for(HEARTBEAT_SECONDS):
            lease.check()
        raise
    finally:
        if _leases.get(lease.place) == lease:
            del _leases[lease.place]
        ended.set()
        thread.join()
        # Between the renewal and the deletion another process may take it only once its heartbeat is stale.
        with contextlib.suppress(OSError, StoreError), retrying_for(HEARTBEAT_SECONDS):
            if mine is not None and (last := put(mine)) is not None:
                slot.remove(last)


@contextlib.contextmanager
def _explained(slot: LeaseSlot) -> Iterator[None]:
    """Say what to do where a lease may not be written, and name it where the disk fails."""
    try:
        with naming(slot.path):
            yield
    except PermissionError as error:
        raise StoreError(
            f"'{slot.path}', which tells other writers of this one, cannot be written (permission denied); give a "
            "place in a folder that you may write to, or if it is of a writer that is gone, have it deleted."
        ) from error


def _read(slot: LeaseSlot) -> tuple[LeaseRecord | None, Any]:
    try:
        content, version = slot.read()
    except FileNotFoundError:
        return None, None
    return parse(slot.path, content), version


def identity() -> LeaseRecord:
    """Return what identifies this process among all processes on all machines."""
    pid = os.getpid()
    # Machines and containers can share a host name; a boot id and a pid namespace together identify a set of processes.
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    machine = f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    return LeaseRecord(machine=machine, process=pid, started=_process_start(pid), heartbeat=time.time())


def _process_start(pid: int) -> str | None:
    """Return the kernel's start time of a process: it distinguishes processes that had the same number."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return status.rpartition(")")[2].split()[19]


BEGINNING = b'{"machine":'


def parse(path: object, content: bytes) -> LeaseRecord | None:
    """Return the lease that a file holds; None if it is empty, or its holder died or had no space while writing it.

    Raises:
        StoreError: If it holds anything else, which is not ours.
    """
    try:
        return parse_json(path, content, LeaseRecord)
    except UnreadableFileError as error:
        if not content or content.startswith(BEGINNING):
            return None
        raise StoreError(
            f"'{path}' has the name of a writer's lease and holds something else; move it away, or give another place."
        ) from error


def is_held(lease: LeaseRecord, age: Callable[[], float]) -> bool:
    """Return whether the holder of a lease is alive, as far as this process can see.

    Args:
        age: Returns the seconds since it was put; below zero if a clock was set back. Asked only about other machines.
    """
    if lease.machine == identity().machine:
        return _process_start(lease.process) == lease.started
    return abs(age()) < STALE_SECONDS
