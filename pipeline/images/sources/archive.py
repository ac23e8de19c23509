"""Sources whose images are members of larger files: where each member starts and how long it is.

A member is read by opening the file and reading at its offset. That costs a few microseconds more than a file kept
open would, but leaves nothing to lock, to run out of, or to carry into another process.
"""

import dataclasses
import errno
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from compress_ssl.pipeline.images.sources.source import Listing

LOADING = threading.Lock()
"""Held while a source reads its table, so that only one of many threads does; a million images take 300 MB."""


class Members(NamedTuple):
    """The N images of some files."""

    listing: Listing
    file: npt.NDArray[np.int32]  # (N,) index of the file that holds each image
    offset: npt.NDArray[np.int64]  # (N,) first byte of each image in its file
    size: npt.NDArray[np.int64]  # (N,) in bytes
    content_hash: npt.NDArray[np.uint64] | None = None  # (N,) XXH3-64 of the images, where the files record it


@dataclasses.dataclass(frozen=True)
class ArchiveSource(ABC):
    """Base of these sources: loads the table of members when first needed, and is pickled without it."""

    location: Path
    archives: tuple[Path, ...]  # the files that hold the images

    @abstractmethod
    def load_members(self) -> Members:
        """Read the table of members."""

    def listing(self) -> Listing:
        """Return all images, in the order of the members."""
        with LOADING:
            return self._loaded[0].listing

    def stamp(self, path: str) -> tuple[int, int]:
        """Return size in bytes, and the content hash, else the archive's modification time in nanoseconds."""
        row, members = self._find(path)
        if members.content_hash is not None:  # the same in a copy of the archive
            return int(members.size[row]), int(members.content_hash[row].view(np.int64))
        return int(members.size[row]), self.archives[members.file[row]].stat().st_mtime_ns

    def read(self, path: str) -> bytes:
        """Return the member's bytes, checked against their hash if that is recorded."""
        row, members = self._find(path)
        archive = self.archives[members.file[row]]
        content = read_range(archive, int(members.offset[row]), int(members.size[row]))
        if members.content_hash is not None and xxhash.xxh3_64_intdigest(content) != int(members.content_hash[row]):
            raise OSError(errno.EIO, f"its bytes in the pack '{archive}' are damaged", str(archive))
        return content

    def describe(self, path: str) -> str:
        """Return the image's path, as if the archive were a folder."""
        return str(self.location / path)

    def files(self) -> Iterator[Path]:
        """Yield the archives."""
        yield from self.archives

    def _find(self, path: str) -> tuple[int, Members]:
        with LOADING:
            members, rows = self._loaded
        if path not in rows:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return rows[path], members

    @cached_property
    def _loaded(self) -> tuple[Members, dict[str, int]]:
        members = self.load_members()
        return members, {path: row for row, path in enumerate(members.listing.paths)}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the table out: another process reads its own."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def read_range(file: Path, offset: int, size: int) -> bytes:
    """Read ``size`` bytes of a file from ``offset`` on.

    Raises:
        OSError: If the file cannot be read or ends earlier.
    """
    descriptor = os.open(file, os.O_RDONLY)
    try:
        content = os.pread(descriptor, size, offset)
        while len(content) < size:  # one call reads at most 2 GiB
            more = os.pread(descriptor, size - len(content), offset + len(content))
            if not more:
                raise OSError(errno.EIO, "the file ends before", str(file))
            content += more
    finally:
        os.close(descriptor)
    return content
