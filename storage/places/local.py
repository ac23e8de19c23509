"""``LocalPath``: a file or folder of this machine, as a place of a store."""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import os
import shutil
import stat
import tempfile
import uuid
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, ClassVar

import xxhash

from compress_ssl.storage.errors import StoreError, StoreUnsafeError
from compress_ssl.storage.places.durable import PARTIAL_SUFFIX, flush_directory, naming, write_durably
from compress_ssl.storage.places.lease import held_over, hold_lease
from compress_ssl.storage.places.lease_file import LeaseFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compress_ssl.storage.places.lease import LeaseSlot

TOKEN = 32 * "[0-9a-f]"
"""Part of the names of all that is only for a while beside or in a store; a user's own files have no such names."""

CREATING, DELETING, COPYING = ".creating", ".deleting", ".copying"


class LocalPath(PosixPath):
    """A ``pathlib.Path`` with the further methods of ``Place``, which documents them."""

    __slots__ = ()

    is_local: ClassVar[bool] = True
    is_writable: ClassVar[bool] = True

    def resolve(self, strict: bool = False) -> LocalPath:
        try:
            return super().resolve(strict)
        except RuntimeError as error:  # pathlib's, of links in a circle
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(self)) from error

    def read_bytes(self, limit: int | None = None) -> bytes:
        with self.reading(limit) as file:
            return file.read(-1 if limit is None else limit)

    @contextlib.contextmanager
    def reading(self, limit: int | None = None) -> Iterator[io.BufferedIOBase]:
        descriptor = os.open(self, os.O_RDONLY | os.O_NONBLOCK)  # opening a FIFO would wait for its writer
        with naming(self), open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self))
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "Is not a regular file", str(self))
            if limit is not None and status.st_size > limit:
                raise OSError(errno.EFBIG, f"Is larger than {limit:,} bytes", str(self))
            yield file

    def size(self) -> int:
        return self.stat().st_size

    def folders(self) -> list[LocalPath]:
        with os.scandir(self) as entries:
            return sorted(self / entry.name for entry in entries if entry.is_dir(follow_symlinks=False))

    def files(self) -> Iterator[LocalPath]:
        return (path for path in self.rglob("*") if path.is_file())

    def write_durably(self, data: bytes | bytearray | memoryview) -> None:
        write_durably(self, data, lambda: held_over(self.parent))

    def inside(self, key: str) -> LocalPath:
        path = self
        for part in key.split("/"):
            path = path / part
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                mode = path.lstat().st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    kind = "a link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
                    raise StoreUnsafeError(
                        f"'{path}' is {kind}, which no embedding store holds; it was not opened: put what it leads to "
                        "there, or embed again."
                    )
        return path

    def sizes(self) -> dict[str, int]:
        return {path.relative_to(self).as_posix(): path.size() for path in self.files()}

    def check_writable(self) -> None:
        """Do nothing: whether a disk can be written shows when it is."""

    def remove_tree(self) -> None:
        with held_over(self):
            shutil.rmtree(self, ignore_errors=True)

    def check_deletable(self) -> None:
        """Check that a folder can be moved and deleted with all that is in it.

        Raises:
            StoreError: Naming the first folder in which that is not permitted.
        """
        for folder in (self.parent, *(Path(path) for path, _, _ in os.walk(self))):
            if not os.access(folder, os.W_OK | os.X_OK):
                raise StoreError(
                    f"'{self}' cannot be replaced: you may not write to the folder '{folder}'; give another place, or "
                    "ask its owner."
                )

    def sweep_partial_files(self) -> int:
        partial = [path for path in self.rglob(f"*.{TOKEN}{PARTIAL_SUFFIX}") if path.is_file()]
        for leftover in partial:
            leftover.unlink(missing_ok=True)
        place = self.resolve()
        for state in (CREATING, DELETING):
            for folder in place.parent.glob(f"{glob.escape(place.name)}.{TOKEN}{state}"):
                folder.remove_tree()
        return len(partial)

    def make_read_only(self) -> None:
        for path in (self.resolve(), *(path for path in self.rglob("*") if not path.is_symlink())):
            mode = path.stat().st_mode
            wanted = mode | 0o050 if path.is_dir() else (mode | 0o040) & ~0o222
            if wanted != mode:
                with contextlib.suppress(PermissionError):  # another user's
                    path.chmod(stat.S_IMODE(wanted))

    def lease_slot(self) -> LeaseSlot:
        place = self.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        return LeaseFile(place.with_name(f"{place.name}.lease"))

    @contextlib.contextmanager
    def replaced(self) -> Iterator[LocalPath]:
        place = self.resolve()
        token = uuid.uuid4().hex
        building, deleting = (place.with_name(f"{place.name}.{token}{state}") for state in (CREATING, DELETING))
        try:
            if place.is_dir():
                place.check_deletable()
            yield building
            with held_over(place):
                if place.is_dir():
                    place.rename(deleting)
                building.rename(place)
        except BaseException:
            building.remove_tree()
            raise
        flush_directory(place.parent)
        deleting.remove_tree()

    @contextlib.contextmanager
    def assembled(self, whole: str) -> Iterator[LocalPath]:
        place = self.resolve()
        growing = place.with_name(f"{place.name}.{xxhash.xxh3_128_hexdigest(whole.encode())}{COPYING}")
        for other in place.parent.glob(f"{glob.escape(place.name)}.{TOKEN}{COPYING}"):
            if other != growing:
                other.remove_tree()
        growing.mkdir(parents=True, exist_ok=True)
        yield growing
        with held_over(place):
            growing.rename(place)
        flush_directory(place.parent)

    def is_half_created(self) -> bool:
        return False

    def existing_parent(self) -> LocalPath:
        return next(folder for folder in self.absolute().parents if folder.is_dir())

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.existing_parent()).free

    @contextlib.contextmanager
    def scratch(self) -> Iterator[LocalPath]:
        with tempfile.TemporaryDirectory(prefix=".compress-ssl-", dir=self.existing_parent()) as folder:
            yield LocalPath(folder) / self.name


@contextlib.contextmanager
def replaced_file(file: Path) -> Iterator[Path]:
    """Give a file to write beside its place, under the writer's lease; if the block succeeds, it takes the place.

    What killed writers left beside it is deleted.

    Raises:
        StoreBusyError: If a living process writes it, or another one has begun to during the block.
    """
    place = LocalPath(file).resolve()
    with hold_lease(file, place.lease_slot()) as lease:
        for leftover in place.parent.glob(f"{glob.escape(place.name)}.{TOKEN}{PARTIAL_SUFFIX}"):
            leftover.unlink(missing_ok=True)
        partial = place.with_name(f"{place.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
        yield partial
        with lease.held():
            partial.replace(place)
        flush_directory(place.parent)
