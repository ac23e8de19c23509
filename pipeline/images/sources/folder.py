"""Images in a folder with one sub-folder per class, or in a flat folder without labels.

The order is that of torchvision's ImageFolder: sorted classes, then sorted folders, then sorted names.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.source import IMAGE_EXTENSIONS, FileSource, Listing, check_name, is_image
from compress_ssl.pipeline.images.sources.text import make_listing


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
