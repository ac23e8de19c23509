"""Sources whose images are files: a folder with one sub-folder per class, a flat folder, or a text file of paths.

The order of a folder is that of torchvision's ImageFolder: sorted classes, then sorted folders, then sorted names.
Hidden files and folders are not images, and no folder is read twice, whatever links there are.
A list has one path per line, relative to the list's folder, optionally with a class.
"""

import errno
import logging
import os
import posixpath
import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.source import IMAGE_EXTENSIONS, Listing, check_name, is_hidden, is_image
from compress_ssl.pipeline.images.sources.text import make_listing, read_lines, split_line

logger = logging.getLogger(__name__)


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
        found = os.stat(f"{self.root}/{path}")  # a third of the time of a ``Path``, of which every image would have one
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, a device has no end
            raise OSError(errno.EINVAL, "not a regular file", path)
        return found.st_size, found.st_mtime_ns

    def read(self, path: str) -> bytes:
        """Return the file's bytes."""
        return (self.root / path).read_bytes()

    def describe(self, path: str) -> str:
        """Return the file's path."""
        return str(self.root / path)


class FolderSource(FileSource):
    """The images of one folder, named relative to it."""

    def listing(self) -> Listing:
        """Return all images in torchvision's order, and the class names (none in a flat folder); log what is left."""
        root = self.location
        if not root.exists():
            raise InputError(f"The image folder '{root}' does not exist; check the path.")
        if not root.is_dir():
            raise InputError(f"'{root}' is a file; give the folder that holds the images.")
        found: dict[str, list[tuple[str, list[str]]]] = defaultdict(list)  # folders with their images, by class
        left_out: LeftOut = defaultdict(list)
        for folder, names in _folders(root, left_out):
            found[folder.split("/")[0]].append((folder, names))
        flat = [name for _, names in found.pop("") for name in names]
        classes = {name: [path for _, paths in sorted(found[name]) for path in paths] for name in sorted(found)}
        if any(classes.values()) and flat:
            left_out["beside the class folders"] = flat
        if left_out:
            counts = (f"{len(names):,} {kind} ({names[0]!r})" for kind, names in sorted(left_out.items()))
            logger.info("Left out of '%s', with the first of each kind: %s.", root, ", ".join(counts))
        for name in (*classes, *(path for paths in classes.values() for path in paths), *flat):
            check_name(name, root)
        if any(classes.values()):
            if empty := [name for name, images in classes.items() if not images]:
                raise InputError(f"Class '{empty[0]}' in '{root}' has no image; remove the folder or fill it.")
            paths = [path for images in classes.values() for path in images]
            return make_listing(paths, [path.split("/")[0] for path in paths])
        if not flat:
            raise InputError(
                f"'{root}' holds no images; give a folder with one sub-folder per class, or a flat folder, of "
                f"{', '.join(IMAGE_EXTENSIONS)} files."
            )
        return make_listing(flat)

    def files(self) -> Iterator[Path]:
        """Yield every image file below the folder."""
        for _, paths in _folders(self.location, defaultdict(list)):
            yield from (self.location / path for path in paths)


LeftOut = dict[str, list[str]]
"""Names of files and folders that are no images, by what they are."""


def _folders(root: Path, left_out: LeftOut) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder from ``root`` (named "") on, and its images' paths, sorted; both are relative to ``root``."""
    top, seen = os.path.realpath(root), set()
    for folder, folders, names in os.walk(root, onerror=_refuse, followlinks=True):
        relative = Path(folder).relative_to(root).as_posix()
        before = "" if relative == "." else f"{relative}/"
        images = []
        for name in sorted(names):
            if is_hidden(name):
                left_out["hidden"].append(before + name)
            elif is_image(name):
                images.append(before + name)
            else:
                left_out[Path(name).suffix.lower() or "without extension"].append(before + name)
        yield before[:-1], images
        below, folders[:] = sorted(folders), []
        for name in below:
            path = os.path.join(folder, name)
            found = os.stat(path)
            identity = found.st_dev, found.st_ino
            if is_hidden(name):
                left_out["hidden"].append(before + name)
            elif identity in seen or (os.path.islink(path) and _is_read_anyway(os.path.realpath(path), top)):
                left_out["linked to a folder that is read anyway"].append(before + name)
            else:
                seen.add(identity)
                folders.append(name)


def _refuse(error: OSError) -> None:
    raise InputError(f"The folder '{error.filename}' cannot be read ({error.strerror}); correct that, or move it away.")


def _is_read_anyway(folder: str, top: str) -> bool:
    """Return true if a folder is a dataset's ``top``, above it, or below it and not hidden."""
    common = os.path.commonpath([folder, top])
    return common == folder or (common == top and not any(map(is_hidden, os.path.relpath(folder, top).split("/"))))


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
