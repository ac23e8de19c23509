"""Images listed in a text file: one path per line, relative to the file's folder, optionally with a class."""

import posixpath
from collections.abc import Iterator
from pathlib import Path

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.source import IMAGE_EXTENSIONS, FileSource, Listing, is_image
from compress_ssl.pipeline.images.sources.text import make_listing, read_lines, split_line


class ListSource(FileSource):
    """The images of one list, in its order, named by the paths in it; ``location`` is the text file."""

    @property
    def root(self) -> Path:
        """The text file's folder."""
        return self.location.parent

    def listing(self) -> Listing:
        """Return all images; either every line has a class or none has."""
        entries = self._entries()
        classes = [class_name for _, _, class_name in entries]
        if any(classes) and not all(classes):
            number = next(number for number, _, class_name in entries if not class_name)
            raise InputError(f"Line {number} of '{self.location}' has no class, other lines have one; add it.")
        return make_listing([path for _, path, _ in entries], classes)

    def files(self) -> Iterator[Path]:
        """Yield the list, and every file in it."""
        yield self.location
        yield from (self.root / path for _, path, _ in self._entries())

    def _entries(self) -> list[tuple[int, str, str]]:
        """Return line number, path and class of every line."""
        entries, seen = [], set()
        for number, line in read_lines(self.location, "list of images"):
            name, class_name = split_line(line)
            path = posixpath.normpath(name)
            if path.startswith(("/", "../")):
                raise InputError(
                    f"Line {number} of '{self.location}', '{name}', leads out of the list's folder; put the list into "
                    "a folder above all images and write paths relative to it."
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
