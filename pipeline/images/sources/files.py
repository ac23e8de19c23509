"""Sources whose images are files: a folder with one sub-folder per class, a flat folder, or a text file of paths.

The order of a folder is that of torchvision's ImageFolder: sorted classes, then sorted folders, then sorted names.
A list has one path per line, relative to the list's folder, optionally with a class.
"""

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.source import IMAGE_EXTENSIONS, Listing, check_name, is_image
from compress_ssl.pipeline.images.sources.text import make_listing, read_lines, split_line


@dataclass(frozen=True)
class FileSource:
    """Base of the sources whose images are files below one folder."""

    location: Path

    @property
    def root(self) -> Path:
        """Folder that the images' names are relative to."""
        return self.location

    def stamp(self, path: str) -> tuple[int, int]:
        """Return size in bytes and modification time in nanoseconds."""
        stat = (self.root / path).stat()
        return stat.st_size, stat.st_mtime_ns

    def read(self, path: str) -> bytes:
        """Return the file's bytes."""
        return (self.root / path).read_bytes()

    def describe(self, path: str) -> str:
        """Return the file's path."""
        return str(self.root / path)


class FolderSource(FileSource):
    """The images of one folder, named relative to it."""

    def listing(self) -> Listing:
        """Return all images in torchvision's order, and the class names (none in a flat folder)."""
        root = self.location
        if not root.exists():
            raise InputError(f"The image folder '{root}' does not exist; check the path.")
        if not root.is_dir():
            raise InputError(f"'{root}' is a file; give the folder that holds the images.")
        classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        for name in classes:
            check_name(name, root)
        found = {name: list(_images_below(root, name)) for name in classes}
        if any(found.values()):
            empty = [name for name, images in found.items() if not images]
            if empty:
                raise InputError(f"Class '{empty[0]}' in '{root}' has no image; remove the folder or fill it.")
            paths = [path for images in found.values() for path in images]
            return make_listing(paths, [path.split("/")[0] for path in paths])
        flat = sorted(entry.name for entry in os.scandir(root) if entry.is_file() and is_image(entry.name))
        if not flat:
            raise InputError(
                f"'{root}' holds no images; give a folder with one sub-folder per class, or a flat folder, of "
                f"{', '.join(IMAGE_EXTENSIONS)} files."
            )
        for name in flat:
            check_name(name, root)
        return make_listing(flat)

    def files(self) -> Iterator[Path]:
        """Yield every image file below the folder."""
        for folder, folders, names in os.walk(self.location, followlinks=True):
            folders.sort()
            yield from (Path(folder, name) for name in sorted(names) if is_image(name))


def _images_below(root: Path, class_name: str) -> Iterator[str]:
    for folder, _, names in sorted(os.walk(root / class_name, followlinks=True)):
        relative = Path(folder).relative_to(root).as_posix()
        for name in sorted(names):
            if is_image(name):
                check_name(f"{relative}/{name}", root)
                yield f"{relative}/{name}"


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
