"""``LocalPath``: a file or folder of this machine, as a place of a store."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from pathlib import PosixPath
from typing import TYPE_CHECKING, ClassVar

from compress_ssl.storage.places.durable import PARTIAL_SUFFIX, flush_directory, write_durably
from compress_ssl.storage.places.lease import Lease, LeaseFile, hold_lease

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager


class LocalPath(PosixPath):
    """A ``pathlib.Path`` with the further methods of ``Place``, which documents them."""

    __slots__ = ()

    is_local: ClassVar[bool] = True
    is_writable: ClassVar[bool] = True

    def read_bytes(self, limit: int | None = None) -> bytes:
        descriptor = os.open(self, os.O_RDONLY | os.O_NONBLOCK)  # opening a FIFO would wait for its writer
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self))
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "Is not a regular file", str(self))
            if limit is not None and status.st_size > limit:
                raise OSError(errno.EFBIG, f"Is larger than {limit:,} bytes", str(self))
            return file.read(-1 if limit is None else limit)

    def size(self) -> int:
        return self.stat().st_size

    def folders(self) -> list[LocalPath]:
        with os.scandir(self) as entries:
            return sorted(self / entry.name for entry in entries if entry.is_dir(follow_symlinks=False))

    def files(self) -> Iterator[LocalPath]:
        return (path for path in self.rglob("*") if path.is_file())

    def write_durably(self, data: bytes | bytearray | memoryview) -> None:
        write_durably(self, data)

    def check_writable(self) -> None:
        """Do nothing: whether a disk can be written shows when it is."""

    def remove_tree(self) -> None:
        shutil.rmtree(self, ignore_errors=True)

    def sweep_partial_files(self) -> int:
        leftovers = [path for path in self.rglob(f"*{PARTIAL_SUFFIX}") if path.is_file()]
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
        return len(leftovers)

    def make_read_only(self) -> None:
        for path in (self.resolve(), *(path for path in self.rglob("*") if not path.is_symlink())):
            mode = path.stat().st_mode
            wanted = mode | 0o050 if path.is_dir() else (mode | 0o040) & ~0o222
            if wanted != mode:
                with contextlib.suppress(PermissionError):  # another user's
                    path.chmod(stat.S_IMODE(wanted))

    def lease(self) -> AbstractContextManager[Lease]:
        place = self.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        return hold_lease(self, LeaseFile(place.with_name(f"{place.name}.lease")))

    @contextlib.contextmanager
    def replaced(self) -> Iterator[LocalPath]:
        place = self.resolve()
        building, deleting = (place.with_name(f"{place.name}.{state}") for state in ("creating", "deleting"))
        for leftover in (building, deleting):
            leftover.remove_tree()
        try:
            yield building
        except BaseException:
            building.remove_tree()
            raise
        if place.is_dir():
            place.rename(deleting)
        building.rename(place)
        flush_directory(place.parent)
        deleting.remove_tree()

    @contextlib.contextmanager
    def assembled(self) -> Iterator[LocalPath]:
        place = self.resolve()
        growing = place.with_name(f"{place.name}.copying")
        growing.mkdir(parents=True, exist_ok=True)
        yield growing
        growing.rename(place)
        flush_directory(place.parent)

    def is_half_created(self) -> bool:
        return False

    def generation(self) -> object:
        try:
            return self.stat().st_ino
        except FileNotFoundError:
            return None

    def existing_parent(self) -> LocalPath:
        return next(folder for folder in self.absolute().parents if folder.is_dir())

    def free_bytes(self) -> int | None:
        return shutil.disk_usage(self.existing_parent()).free

    @contextlib.contextmanager
    def scratch(self) -> Iterator[LocalPath]:
        with tempfile.TemporaryDirectory(prefix=".compress-ssl-", dir=self.existing_parent()) as folder:
            yield LocalPath(folder) / self.name
