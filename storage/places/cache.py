"""A local cache of the chunks of remote stores: a student's second epoch reads nothing from the network.

A chunk is a file in the cache folder, named after its place and what was committed of it, so that a store that was
replaced is never mistaken for the new one. It is checked against its commit record whenever it is taken: a file that is
wrong for whatever reason is fetched again. Above the bound the files that were not used for longest are deleted. Any
number of processes share the folder: files appear whole, by renaming, and one that is deleted while it is read stays
readable until it is closed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from compress_ssl.storage.errors import StoreDamagedError, StoreError
from compress_ssl.storage.places.durable import PARTIAL_SUFFIX

if TYPE_CHECKING:
    from compress_ssl.storage.commits import Part
    from compress_ssl.storage.places.remote import Place, RemotePath

logger = logging.getLogger(__name__)

FOLDER, BYTES = "COMPRESS_SSL_CACHE", "COMPRESS_SSL_CACHE_BYTES"
"""Environment variables: the cache folder, and how much it may hold (0: no cache)."""

MOST_BYTES = 100 * 10**9
SHARE_OF_DISK = 0.2
"""Unless told otherwise the cache takes the lesser of the two."""

KEPT = 0.9
"""What is left of the bound when old chunks are deleted."""

LOOK_AGAIN = 0.05
"""Part of the bound that a process adds before it looks again at what all have put there."""


def user_cache() -> Path:
    """Our folder among the user's caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compress-ssl"


class ChunkCache:
    """Chunks of remote stores in a folder of this machine."""

    def __init__(self, folder: Path | None = None, bound: int | None = None) -> None:
        """Take the folder and the bound given, else those of the environment, else the defaults.

        Raises
        ------
        StoreError
            If the bound in the environment is not a number.
        """
        self.folder = folder or Path(os.environ.get(FOLDER) or user_cache() / "chunks")
        self.bound = _bound(self.folder) if bound is None else bound
        self._added: float = 0
        self._total: int | None = None

    def read(self, path: RemotePath, part: Part) -> bytes:
        """The bytes of a committed chunk, from the cache or from its server.

        Raises
        ------
        StoreDamagedError
            If the server has other bytes than were committed, twice.
        StoreUnreachableError
            If the chunk is not in the cache and the server cannot be reached.
        """
        name = xxhash.xxh3_128_hexdigest(f"{path}\0{part['size']}\0{part['xxh3_64']}".encode())
        file = self.folder / name[:2] / name
        with contextlib.suppress(OSError):
            content = file.read_bytes()
            if is_part(content, part):
                os.utime(file)  # the disk may be mounted so that reading leaves no time
                return content
        content = fetch(path, part)
        self._keep(file, content)
        return content

    def _keep(self, file: Path, content: bytes) -> None:
        if len(content) > self.bound:
            return
        partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._make_room(len(content))
            partial.write_bytes(content)
            partial.replace(file)
        except OSError as error:  # a full disk, a folder of another user's: the chunk is at hand all the same
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            logger.warning(
                "The cache '%s' cannot be written (%s); chunks are fetched anew.", self.folder, error.strerror
            )

    def _make_room(self, size: int) -> None:
        """Delete the chunks that were not used for longest, if with ``size`` more bytes there were too many."""
        self._added += size
        if self._total is None or self._added > LOOK_AGAIN * self.bound or self._total + self._added > self.bound:
            found = _files(self.folder)
            total = sum(stat.st_size for stat, _ in found)
            if total + size > self.bound:
                for stat, file in sorted(found, key=lambda each: each[0].st_mtime_ns):
                    if total + size <= KEPT * self.bound:
                        break
                    file.unlink(missing_ok=True)
                    total -= stat.st_size
            self._total, self._added = total, size


def fetch(path: Place, part: Part) -> bytes:
    """The bytes of a committed part from where it lies; what comes wrong is fetched a second time.

    Raises
    ------
    StoreDamagedError
        If they are not what was committed.
    """
    for _ in range(2):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise StoreDamagedError(_sentence(path, "is missing")) from None
        if is_part(content, part):
            return content
    raise StoreDamagedError(_sentence(path, "has other content than was committed"))


def is_part(content: bytes, part: Part) -> bool:
    """Whether these are the bytes that were committed."""
    return len(content) == part["size"] and xxhash.xxh3_64_hexdigest(content) == part["xxh3_64"]


def _sentence(path: Place, fault: str) -> str:
    return f"'{path}' {fault}; run 'compress-ssl store verify' for all the damage, then restore a copy or embed again."


def _files(folder: Path) -> list[tuple[os.stat_result, Path]]:
    found = []
    for file in folder.glob("??/*"):
        with contextlib.suppress(FileNotFoundError):  # deleted by another process meanwhile
            found.append((file.stat(), file))
    return found


def _bound(folder: Path) -> int:
    given = os.environ.get(BYTES)
    if given:
        if not given.isdecimal():
            raise StoreError(f"{BYTES} must be a number of bytes, got '{given}'; write 100000000000 for 100 GB.")
        return int(given)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return int(min(MOST_BYTES, SHARE_OF_DISK * shutil.disk_usage(existing).total))
