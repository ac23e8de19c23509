"""Image files in a folder with a folder a class, or in a flat folder without labels.

The order is torchvision's ImageFolder's: classes sorted, then folders, then names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.source import IMAGE_EXTENSIONS, Listing, check_name, is_image

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class FolderSource:
    """The images of one folder; their names are relative to it."""

    location: Path

    def listing(self) -> Listing:
        """All images, in torchvision's order, and the class names (none in a flat folder)."""
        paths, classes = _list_images(self.location)
        number = {name: label for label, name in enumerate(classes)}
        labels = [number[path.split("/")[0]] if classes else -1 for path in paths]
        return Listing(paths, np.array(labels, np.int32), classes)

    def stamp(self, path: str) -> tuple[int, int]:
        """Size in bytes and time of change in nanoseconds."""
        stat = (self.location / path).stat()
        return stat.st_size, stat.st_mtime_ns

    def read(self, path: str) -> bytes:
        """The file's bytes."""
        return (self.location / path).read_bytes()

    def describe(self, path: str) -> str:
        """The file."""
        return str(self.location / path)

    def files(self) -> Iterator[Path]:
        """Every image file below the folder."""
        for folder, folders, names in os.walk(self.location, followlinks=True):
            folders.sort()
            yield from (Path(folder, name) for name in sorted(names) if is_image(name))


def _list_images(root: Path) -> tuple[list[str], tuple[str, ...]]:
    if not root.exists():
        raise InputError(f"The image folder '{root}' does not exist; check the path.")
    if not root.is_dir():
        raise InputError(f"'{root}' is a file; give the folder that holds the images.")
    classes = tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir()))
    for name in classes:
        check_name(name, root)
    found = {name: list(_images_below(root, name)) for name in classes}
    if not any(found.values()):
        flat = sorted(entry.name for entry in os.scandir(root) if entry.is_file() and is_image(entry.name))
        if not flat:
            raise InputError(
                f"'{root}' holds no images; give a folder with a sub-folder a class, or a flat folder, of "
                f"{', '.join(IMAGE_EXTENSIONS)} files."
            )
        for name in flat:
            check_name(name, root)
        return flat, ()
    empty = [name for name, images in found.items() if not images]
    if empty:
        raise InputError(f"Class '{empty[0]}' in '{root}' has no image; remove the folder or fill it.")
    return [path for name in classes for path in found[name]], classes


def _images_below(root: Path, class_name: str) -> Iterator[str]:
    for folder, _, names in sorted(os.walk(root / class_name, followlinks=True)):
        relative = Path(folder).relative_to(root).as_posix()
        for name in sorted(names):
            if is_image(name):
                check_name(f"{relative}/{name}", root)
                yield f"{relative}/{name}"
