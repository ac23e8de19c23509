"""Writing so that a reader never meets half a file and a power cut takes back nothing committed.

Bytes go to a ``.partial`` file beside their place, are flushed to the disk (fsync), and are renamed
into place; then the folder is flushed. zarr's own local store renames, but does not flush.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import uuid
from typing import TYPE_CHECKING, Any

from zarr.storage import LocalStore

from compress_ssl.storage.places.remote import RemotePath

if TYPE_CHECKING:
    from pathlib import Path

    from zarr.core.buffer import Buffer

    from compress_ssl.storage.places.remote import Place

PARTIAL_SUFFIX = ".partial"


def write_durably(path: Place, data: bytes | bytearray | memoryview) -> None:
    """Write ``data`` to ``path``: whole, on the disk, or not at all. An object store promises that by itself."""
    if isinstance(path, RemotePath):
        path.write_bytes(data)
        return
    make_directory_durably(path.parent)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    flush_directory(path.parent)


def write_json_durably(path: Place, value: Any) -> None:
    """Write ``value`` as indented JSON; the same value gives the same bytes."""
    write_durably(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def make_directory_durably(path: Path) -> None:
    """Create a folder and its parents, each flushed into the folder that holds it."""
    if path.is_dir():
        return
    make_directory_durably(path.parent)
    path.mkdir(exist_ok=True)
    flush_directory(path.parent)


def flush_directory(path: Path) -> None:
    """Put a folder's entries (names, renames, removals) on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_partial_files(folder: Path) -> int:
    """Delete what killed writers left behind, and return how many files that was.

    Only the holder of the writer's lease may call this: another writer's file in flight looks the same.
    """
    leftovers = [path for path in folder.rglob(f"*{PARTIAL_SUFFIX}") if path.is_file()]
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return len(leftovers)


def make_read_only(folder: Path) -> None:
    """Take from every file below a folder the right to be written, give the group the right to read it all.

    Folders stay as writable as they are: who owns them can move, replace and delete what is in them. Files of another
    user's are left as they are.
    """
    for path in (folder.resolve(), *(path for path in folder.rglob("*") if not path.is_symlink())):
        mode = path.stat().st_mode
        wanted = mode | 0o050 if path.is_dir() else (mode | 0o040) & ~0o222
        if wanted != mode:
            with contextlib.suppress(PermissionError):
                path.chmod(stat.S_IMODE(wanted))


class DurableStore(LocalStore):
    """zarr's local store, with every object on the disk before it has its name."""

    async def set(self, key: str, value: Buffer) -> None:
        """Write one object durably."""
        if not self._is_open:
            await self._open()
        self._check_writable()
        await asyncio.to_thread(write_durably, self.root / key, value.as_buffer_like())

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write one object durably, unless there is one already."""
        if not await self.exists(key):
            await self.set(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write one object durably."""
        self._ensure_open_sync()
        self._check_writable()
        write_durably(self.root / key, value.as_buffer_like())
