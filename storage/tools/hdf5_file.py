"""Writing an HDF5 file on a disk that may fill up, under signals that may come: HDF5 itself crashes the process."""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py

from compress_ssl.storage.signals import deferred_signals


class _GuardedFile(io.FileIO):
    """A file for HDF5 to write, which keeps its first error: HDF5 crashes the process where a write fails.

    What cannot be written any more is kept in memory, so that HDF5 reads what it has written until it is closed.
    """

    def __init__(self, file: Path, mode: str) -> None:
        super().__init__(file, mode)
        self.error: OSError | None = None
        self._lost: list[tuple[int, bytes]] = []  # by position

    def write(self, content: Any) -> int:
        """Write all of the content, or keep it after an error."""
        start, left = self.tell(), memoryview(content).cast("B")
        try:
            while len(left) and self.error is None:
                left = left[super().write(left) :]
        except OSError as error:
            error.filename = str(self.name)
            self.error = error
        if self.error is not None:
            self._lost.append((start, bytes(content)))
            self.seek(start + len(content))
        return len(content)

    def readinto(self, buffer: Any) -> int:
        """Read as much as there would be, had all been written."""
        start, into = self.tell(), memoryview(buffer).cast("B")
        count = super().readinto(into) or 0
        for at, piece in self._lost:
            first, last = max(at, start), min(at + len(piece), start + len(into))
            if first < last:
                into[first - start : last - start] = piece[first - at : last - at]
                count = max(count, last - start)
        self.seek(start + count)
        return count

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position; the end is where it would be, had all been written."""
        place = super().seek(position, whence)
        if whence == os.SEEK_END and self._lost:
            place = super().seek(max(place, position + max(at + len(piece) for at, piece in self._lost)))
        return place

    def truncate(self, size: int | None = None) -> int:
        """Set the file's length; does nothing after an error."""
        return size or 0 if self.error else super().truncate(size)

    def check(self) -> None:
        """Raise the first error that a write has met."""
        if self.error is not None:
            raise self.error


@contextlib.contextmanager
def create_hdf5(file: Path, **options: Any) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Create an HDF5 file and flush it to the disk; leave none if that fails.

    Yields:
        root (h5py.File)
        check (callable): Raises the OSError of a write that has failed, and delivers signals; to be called after each
            piece that is written.
    """
    try:
        with _GuardedFile(file, "w+") as guarded:
            # An exception raised in one of its callbacks crashes HDF5.
            with deferred_signals() as deliver, h5py.File(guarded, "w", **options) as root:

                def check() -> None:
                    guarded.check()
                    deliver()

                yield root, check
            guarded.check()
            os.fsync(guarded.fileno())
    except BaseException:
        file.unlink(missing_ok=True)
        raise
