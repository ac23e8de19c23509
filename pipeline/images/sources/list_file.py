"""Images that a text file lists: a path a line, relative to the file's folder, and if need be a class."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.labels import split_line
from compress_ssl.pipeline.images.sources.source import IMAGE_EXTENSIONS, Listing, is_image
from compress_ssl.pipeline.images.sources.text import number_classes, read_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class ListSource:
    """The images of one list, in its order; their names are the paths in it."""

    location: Path
    """The text file."""

    def listing(self) -> Listing:
        """All images; either every line has a class or none has."""
        entries = self._entries()
        paths, classes = [path for _, path, _ in entries], [class_name for _, _, class_name in entries]
        if not any(classes):
            return Listing(paths, np.full(len(paths), -1, np.int32), ())
        if not all(classes):
            number = next(number for number, _, class_name in entries if not class_name)
            raise InputError(f"Line {number} of '{self.location}' has no class, other lines have one; add it.")
        return Listing(paths, *number_classes(classes))

    def stamp(self, path: str) -> tuple[int, int]:
        """Size in bytes and time of change in nanoseconds."""
        stat = (self.location.parent / path).stat()
        return stat.st_size, stat.st_mtime_ns

    def read(self, path: str) -> bytes:
        """The file's bytes."""
        return (self.location.parent / path).read_bytes()

    def describe(self, path: str) -> str:
        """The file."""
        return str(self.location.parent / path)

    def files(self) -> Iterator[Path]:
        """The list, and every file in it."""
        yield self.location
        yield from (self.location.parent / path for _, path, _ in self._entries())

    def _entries(self) -> list[tuple[int, str, str]]:
        """Number, path and class of every line."""
        entries, seen = [], set()
        for number, line in read_lines(self.location, "list of images"):
            name, class_name = split_line(line)
            path = posixpath.normpath(name)
            if path.startswith(("/", "../")):
                raise InputError(
                    f"Line {number} of '{self.location}', '{name}', leads out of the list's folder; put the list into a "
                    "folder above all images and write paths relative to it."
                )
            if not is_image(path):
                raise InputError(
                    f"Line {number} of '{self.location}', '{name}', is not the name of an image "
                    f"({', '.join(IMAGE_EXTENSIONS)}); correct or remove it."
                )
            if path in seen:
                raise InputError(f"Line {number} of '{self.location}', '{name}', is there already; keep one of them.")
            seen.add(path)
            entries.append((number, path, class_name))
        return entries
