"""A local cache of the chunks of remote stores: a student's second epoch reads nothing from the network.

A chunk is a file in the cache folder, named after its place and its commit record, so that a chunk of a replaced
store is never taken for one of the new store. It is checked against its commit record whenever it is read; a file
that is wrong for whatever reason is fetched again. Above the bound the files that were not used for longest are
deleted. Any number of processes share the folder: files appear whole, by renaming, and one that is deleted while it
is read stays readable until it is closed.
"""

import contextlib
import errno
import logging
import os
import shutil
import uuid
from functools import cache
from pathlib import Path

import xxhash

from compress_ssl.storage.commits import is_part
from compress_ssl.storage.errors import StoreDamagedError
from compress_ssl.storage.places.durable import PARTIAL_SUFFIX
from compress_ssl.storage.places.environment import number_from
from compress_ssl.storage.places.local import TOKEN, LocalPath
from compress_ssl.storage.places.place import Place
from compress_ssl.storage.schema import Part

logger = logging.getLogger(__name__)

FOLDER, BYTES = "COMPRESS_SSL_CACHE", "COMPRESS_SSL_CACHE_BYTES"
"""Environment variables: the cache folder, and its size in bytes (0: no cache)."""

MAX_BYTES = 100 * 10**9
MAX_SHARE_OF_DISK = 0.2  # the smaller of the two is the bound, unless the environment sets it

KEPT = 0.9  # share of the bound that is left when old chunks are deleted

ATTEMPTS = 2  # to read a part whose bytes are wrong

MISSING, CHANGED = "is missing", "has other content than was committed"

RECOUNT = 0.05
"""Share of the bound that a process adds before it measures the folder again, to which all processes add."""


def user_cache(*below: str) -> Path | None:
    """Return a folder in the user's cache; None if the user has no home folder, as in some containers."""
    home = os.path.expanduser("~")  # stays "~" if there is none
    given = os.environ.get("XDG_CACHE_HOME") or (Path(home, ".cache") if home != "~" else None)
    return Path(given, "compress-ssl", *below) if given else None


class ChunkCache:
    """Chunks of remote stores in a folder of this machine."""

    def __init__(self, folder: Path | None = None, bound: float | None = None) -> None:
        """Take the folder and the bound in bytes given, else those of the environment, else the defaults.

        Raises:
            StoreError: If the bound in the environment is not a number.
        """
        chosen = folder or os.environ.get(FOLDER) or user_cache("chunks")
        self.folder = Path(chosen or os.devnull)
        if bound is None:
            bound = number_from(BYTES, "bytes", "100000000000 for 100 GB")
        if bound is None:
            existing = next(path for path in (self.folder, *self.folder.absolute().parents) if os.path.exists(path))
            bound = min(MAX_BYTES, MAX_SHARE_OF_DISK * shutil.disk_usage(existing).total)
        self.bound = bound if chosen else 0
        self._added: float = 0
        self._total: int | None = None

    def read(self, path: Place, part: Part) -> bytes:
        """Return the bytes of a committed chunk, from the cache or from its server.

        Raises:
            StoreDamagedError: If the server has other bytes than were committed, twice.
            StoreUnreachableError: If the chunk is not in the cache and the server cannot be reached.
        """
        name = xxhash.xxh3_128_hexdigest(f"{path}\0{part['size']}\0{part['xxh3_64']}".encode())
        file = self.folder / name[:2] / name
        with contextlib.suppress(OSError):
            content = LocalPath(file).read_bytes(part["size"])
            if is_part(content, part):
                os.utime(file)  # a disk may be mounted with noatime
                return content
        content = fetch(path, part)
        if len(content) > self.bound:
            return content
        partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._make_room(len(content))
            partial.write_bytes(content)
            partial.replace(file)
        except OSError as error:  # a full disk, another user's folder: the chunk is in memory all the same
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            _say_unwritable(self.folder, error.strerror)
        return content

    def _make_room(self, size: int) -> None:
        """Delete the chunks that were not used for longest if ``size`` more bytes would exceed the bound."""
        self._added += size
        if self._total is None or self._added > RECOUNT * self.bound or self._total + self._added > self.bound:
            found = []
            for file in self.folder.glob(f"[0-9a-f][0-9a-f]/{TOKEN}*"):
                with contextlib.suppress(FileNotFoundError):  # deleted by another process meanwhile
                    found.append((file.stat(), file))
            total = sum(stat.st_size for stat, _ in found)
            if total + size > self.bound:
                for stat, file in sorted(found, key=lambda each: each[0].st_mtime_ns):
                    if total + size <= KEPT * self.bound:
                        break
                    file.unlink(missing_ok=True)
                    total -= stat.st_size
            self._total, self._added = total, size


@cache
def _say_unwritable(folder: Path, reason: str | None) -> None:
    """Log it once: a run reads thousands of chunks."""
    logger.warning("The cache '%s' is not writable (%s); chunks are fetched anew.", folder, reason)


def fetch(path: Place, part: Part) -> bytes:
    """Return the bytes of a committed part from its place; bytes that are wrong are read a second time.

    An object that is larger than was committed is not read.

    Raises:
        StoreDamagedError: If they are not what was committed.
    """
    fault = MISSING
    with contextlib.suppress(FileNotFoundError):
        for _ in range(ATTEMPTS):
            try:
                content = path.read_bytes(part["size"])
            except OSError as error:
                if error.errno != errno.EFBIG:
                    raise
            else:
                if is_part(content, part):
                    return content
        fault = CHANGED
    raise damaged(path, fault)


def damaged(path: Place, fault: str) -> StoreDamagedError:
    """Return the error for a committed part with a fault."""
    return StoreDamagedError(
        f"'{path}' {fault}; run 'compress-ssl store verify' for all the damage, then restore a copy or embed again."
    )
