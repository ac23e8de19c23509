"""A writer's lease as a file, which is read and changed under ``flock``."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress_ssl.storage.errors import StoreBusyError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_SECONDS = 20.0  # how long a lock is waited for: longer than any holder needs that is not suspended


@dataclass(frozen=True)
class LeaseFile:
    """A lease on a disk; its version is its content."""

    path: Path

    def read(self) -> tuple[bytes, bytes]:
        descriptor = _open(self.path, os.O_RDONLY)
        try:
            content = os.pread(descriptor, 65536, 0)
        finally:
            os.close(descriptor)
        return content, content

    def put(self, content: bytes, version: bytes | None) -> bytes | None:
        with self._locked(os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX) as descriptor:
            if os.pread(descriptor, 65536, 0) != (version or b""):
                return None
            os.pwrite(descriptor, content, 0)
            os.ftruncate(descriptor, len(content))
        return content

    def remove(self, version: bytes) -> None:
        with self._locked(os.O_RDWR, fcntl.LOCK_EX) as descriptor:
            if os.pread(descriptor, 65536, 0) == version:
                self.path.unlink()

    @contextlib.contextmanager
    def kept(self) -> Iterator[bytes]:
        content = b""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(FileNotFoundError):
                content = os.pread(stack.enter_context(self._locked(os.O_RDONLY, fcntl.LOCK_SH)), 65536, 0)
            yield content

    def age(self) -> float:
        probe = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}.partial")
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            now = os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
            probe.unlink()
        return now - self.path.stat().st_mtime

    @contextlib.contextmanager
    def _locked(self, flags: int, kind: int) -> Iterator[int]:
        """Open the file under a lock."""
        while True:
            descriptor = _open(self.path, flags)
            try:
                _lock(descriptor, kind, self.path)
                if has_name(descriptor, self.path):  # not if it was released and removed between our open and our lock
                    yield descriptor
                    return
            finally:
                os.close(descriptor)


def has_name(descriptor: int, path: Path) -> bool:
    """Return whether an open file is still the one of this name: it may have been removed before it was locked."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _open(path: Path, flags: int) -> int:
    """Open a lease; refuse what has its name and is no file, or a link, which leads to another's."""
    descriptor = -1
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o664)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
    raise StoreError(f"'{path}' has the name of a writer's lease and is no file; move it away, or give another place.")


def _lock(descriptor: int, kind: int, path: Path) -> None:
    """Wait for a lock.

    Raises:
        StoreBusyError: If another process keeps it for long, which must be suspended.
    """
    until = time.monotonic() + LOCK_SECONDS
    with _in_turn:
        while True:
            try:
                return fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise StoreBusyError(
                        f"'{path}' is locked by a process that has stopped while it wrote; end that process first."
                    ) from None
            time.sleep(0.002)


_in_turn = threading.Lock()  # threads that write share their lock, and would never leave a moment for the heartbeat
