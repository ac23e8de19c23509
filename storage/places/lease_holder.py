"""The process that holds a writer's lease: how a lease names it, whether it lives, and its heartbeat."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_ssl.storage.errors import StoreBusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 120.0  # age of a heartbeat from another machine after which its holder counts as gone


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


def busy(store: object, lease: dict[str, Any]) -> StoreBusyError:
    """Return the error that names the holder of a lease."""
    return StoreBusyError(
        f"'{store}' is being written by process {lease['process']} on {lease['machine'].split()[0]} (last heartbeat "
        f"{max(0, time.time() - lease['heartbeat']):.0f} s ago); wait for it, or stop it first."
    )


@contextlib.contextmanager
def heartbeat(renew: Callable[[], bool]) -> Iterator[None]:
    """Renew a lease from a thread while the block runs, until ``renew`` returns False: the lease is lost."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            if not renew():
                return

    thread = threading.Thread(target=beat, name="lease-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
