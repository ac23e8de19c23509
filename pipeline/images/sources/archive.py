"""Images that are parts of bigger files: where each begins and how long it is.

A part is read by opening the file and reading at its offset. That costs a few microseconds more than an open file
would, and then there is nothing to lock, to run out of, or to carry into another process.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from compress_ssl.pipeline.images.sources.source import Listing


LOADING = threading.Lock()
"""Held while a source reads its list, so that of many threads one does; a million images are 300 MB."""


class Parts(NamedTuple):
    """The images of some files, N in all."""

    listing: Listing
    row_of: dict[str, int]
    """Row of each path."""
    file: npt.NDArray[np.int32]
    """(N,) number of the file that each is in."""
    offset: npt.NDArray[np.int64]
    """(N,) its first byte there."""
    size: npt.NDArray[np.int64]
    """(N,) in bytes."""

    def row(self, path: str) -> int:
        """Row of an image.

        Raises
        ------
        FileNotFoundError
            If there is no image of this name.
        """
        try:
            return self.row_of[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None


def make_parts(
    listing: Listing, file: npt.NDArray[np.int32], offset: npt.NDArray[np.int64], size: npt.NDArray[np.int64]
) -> Parts:
    """Parts that are found by their paths."""
    return Parts(listing, {path: row for row, path in enumerate(listing.paths)}, file, offset, size)


def read_part(file: Path, offset: int, size: int) -> bytes:
    """Read ``size`` bytes of a file from ``offset`` on.

    Raises
    ------
    OSError
        If the file cannot be read or ends before.
    """
    descriptor = os.open(file, os.O_RDONLY)
    try:
        content = os.pread(descriptor, size, offset)
        while len(content) < size:  # one call gives at most 2 GiB
            more = os.pread(descriptor, size - len(content), offset + len(content))
            if not more:
                raise OSError(errno.EIO, "the file ends before", str(file))
            content += more
    finally:
        os.close(descriptor)
    return content
