"""Images that are parts of bigger files: where each begins and how long it is.

A part is read by opening the file and reading at its offset. That costs a few microseconds more than an open file
would, and then there is nothing to lock, to run out of, or to carry into another process.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from pipeline.images.sources.source import Listing


@dataclass(frozen=True)
class Parts:
    """The images of some files, N in all."""

    listing: Listing
    file: npt.NDArray[np.int32]
    """(N,) number of the file that each is in."""
    offset: npt.NDArray[np.int64]
    """(N,) its first byte there."""
    size: npt.NDArray[np.int64]
    """(N,) in bytes."""

    @cached_property
    def _row(self) -> dict[str, int]:
        return {path: row for row, path in enumerate(self.listing.paths)}

    def row(self, path: str) -> int:
        """Row of an image.

        Raises
        ------
        FileNotFoundError
            If there is no image of this name.
        """
        try:
            return self._row[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None


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
