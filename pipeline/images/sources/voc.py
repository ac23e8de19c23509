"""Images of one split of a dataset in VOC's layout, without labels: an image may show objects of several classes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.images.sources.source import FileSource, Listing, check_name, is_image
from compress_ssl.pipeline.images.sources.text import make_listing, read_lines
from compress_ssl.pipeline.images.voc import IMAGES, SPLITS


@dataclass(frozen=True)
class VocSource(FileSource):
    """The images listed in ``ImageSets/Main/SPLIT.txt``, in its order, named ``JPEGImages/NAME.jpg``."""

    data: Path
    split: str

    @property
    def root(self) -> Path:
        """The dataset's folder."""
        return self.data

    @property
    def location(self) -> Path:
        """The list."""
        return self.data / SPLITS / f"{self.split}.txt"

    def listing(self) -> Listing:
        """Return all images."""
        return make_listing(self._paths())

    def files(self) -> Iterator[Path]:
        """Yield the list, and every file in it."""
        yield self.location
        yield from (self.data / path for path in self._paths())

    def _paths(self) -> list[str]:
        if not self.location.is_file():
            splits = [path.stem for path in (self.data / SPLITS).glob("*.txt")]
            raise unknown_name("split", self.split, splits, f" in '{self.data}'")
        folder = self.data / IMAGES
        names = sorted(path.name for path in folder.iterdir())
        files = {PurePosixPath(name).stem: name for name in names if is_image(name)}
        paths: dict[str, int] = {}
        for number, name in read_lines(self.location, "list of images"):
            check_name(name, self.location)
            if name not in files:
                raise InputError(
                    f"Line {number} of '{self.location}' names '{name}', of which there is no image in '{folder}'; "
                    "restore it, or take it out of the list."
                )
            path = f"{IMAGES}/{files[name]}"
            if path in paths:
                raise InputError(
                    f"Line {number} of '{self.location}', '{name}', is in line {paths[path]} already; keep one of them."
                )
            paths[path] = number
        return list(paths)
