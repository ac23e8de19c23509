"""Images of one split of a data set in VOC's layout. They have no labels here: an image may show objects of many classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.images.sources.source import Listing, check_name, is_image
from compress_ssl.pipeline.images.sources.text import read_lines
from compress_ssl.pipeline.images.voc import IMAGES, SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class VocSource:
    """The images that ``ImageSets/Main/SPLIT.txt`` names, in its order; their names are ``JPEGImages/NAME.jpg``."""

    data: Path
    split: str

    @property
    def location(self) -> Path:
        """The list."""
        return self.data / SPLITS / f"{self.split}.txt"

    def listing(self) -> Listing:
        """All images."""
        paths = self._paths()
        return Listing(paths, np.full(len(paths), -1, np.int32), ())

    def stamp(self, path: str) -> tuple[int, int]:
        """Size in bytes and time of change in nanoseconds."""
        stat = (self.data / path).stat()
        return stat.st_size, stat.st_mtime_ns

    def read(self, path: str) -> bytes:
        """The file's bytes."""
        return (self.data / path).read_bytes()

    def describe(self, path: str) -> str:
        """The file."""
        return str(self.data / path)

    def files(self) -> Iterator[Path]:
        """The list, and every file in it."""
        yield self.location
        yield from (self.data / path for path in self._paths())

    def _paths(self) -> list[str]:
        if not self.location.is_file():
            raise unknown_name(
                "split", self.split, (path.stem for path in (self.data / SPLITS).glob("*.txt")), f" in '{self.data}'"
            )
        folder = self.data / IMAGES
        files = {
            PurePosixPath(name).stem: name for name in sorted(path.name for path in folder.iterdir()) if is_image(name)
        }
        paths: dict[str, int] = {}
        for number, name in read_lines(self.location, "list of images"):
            check_name(name, self.location)
            if name not in files:
                raise InputError(
                    f"Line {number} of '{self.location}' names '{name}', of which there is no image in '{folder}'; restore "
                    "it, or take it out of the list."
                )
            path = f"{IMAGES}/{files[name]}"
            if path in paths:
                raise InputError(
                    f"Line {number} of '{self.location}', '{name}', is in line {paths[path]} already; keep one of them."
                )
            paths[path] = number
        return list(paths)
