"""The protocol of image sources, and reading from them. Nothing above this folder assumes that images are files."""

import os
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.storage.places.names import first_outside

ImageT = TypeVar("ImageT")

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""torchvision's, and ``.jfif``, which some browsers give to JPEGs that they save."""

MAX_CACHE_BYTES = 2**34  # of what is cached of a source: about 100 million images


class Listing(NamedTuple):
    """The N images of one split, in the order that a store will have."""

    paths: list[str]  # N distinct names, with ``/`` between parts
    labels: npt.NDArray[np.int32]  # (N,) class indices; -1 without a label
    class_names: tuple[str, ...]  # name of each class index; empty without labels


class ImageSource(Protocol):
    """The images of one split. Holds no open file, so it can be shared by threads, pickled and forked."""

    @property
    def location(self) -> Path:
        """Where the images are stored; distinguishes this source from all others."""
        ...

    def listing(self) -> Listing:
        """Return all images.

        Raises:
            InputError: If there are none, or a name or a label cannot be used.
        """
        ...

    def stamp(self, path: str) -> tuple[int, int]:
        """Return an image's size in bytes, and a number that changes with its content (modification time or hash).

        Raises:
            OSError: If the image is missing.
        """
        ...

    def read(self, path: str) -> bytes:
        """Return the encoded image.

        Raises:
            OSError: If the image is missing or cannot be read.
        """
        ...

    def describe(self, path: str) -> str:
        """Return where the image is stored, for messages."""
        ...

    def files(self) -> Iterator[Path]:
        """Yield the files that images and labels are read from; cheaper than a listing, and without its checks."""
        ...


def read_image(source: ImageSource, path: str, advice: str = "restore it, or remove it.") -> bytes:
    """Return an encoded image.

    Raises:
        InputError: If it is missing or cannot be read; the message ends with ``advice``.
    """
    try:
        return source.read(path)
    except OSError as error:
        raise InputError(f"The image '{source.describe(path)}' cannot be read ({error.strerror}); {advice}") from error


def read_stamp(source: ImageSource, path: str) -> tuple[int, int]:
    """Return an image's stamp: its size in bytes, and a number that changes with its content.

    Raises:
        InputError: If the image is missing.
    """
    try:
        return source.stamp(path)
    except OSError as error:
        where = source.describe(path)
        raise InputError(f"The image '{where}' cannot be read ({error.strerror}); restore it, or remove it.") from error


def read_ahead(
    batches: Iterable[Sequence[ImageT]], read: Callable[[ImageT], bytes], *, threads: int, depth: int
) -> Iterator[list[bytes]]:
    """Yield ``read(image)`` of the images of each batch, reading up to ``depth`` batches at a time in threads."""
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[list[Future[bytes]]] = deque()
        for images in batches:
            pending.append([pool.submit(read, image) for image in images])
            if len(pending) == depth:
                yield [future.result() for future in pending.popleft()]
        for futures in pending:
            yield [future.result() for future in futures]


def is_image(name: str) -> bool:
    """Return true if the name has an image's extension."""
    return name.lower().endswith(IMAGE_EXTENSIONS)


def is_hidden(name: str) -> bool:
    """Return true if a file or folder is none of the dataset's: ``.ipynb_checkpoints``, macOS's ``._1.jpg``."""
    return name.startswith(".") or name == "__MACOSX"


def composed_otherwise(name: str, is_there: Callable[[str], bool]) -> str:
    """Return a clause that says that a missing name is there with its accents written otherwise; nothing if it is not.

    An accented letter is one character (NFC) or a letter and an accent (NFD, on macOS): equal in print, not in bytes.
    """
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, name)
        if other != name and is_there(other):
            return f", though it is in Unicode's other form, {form}: rename it, for instance with convmv"
    return ""


def check_name(name: str, where: str | os.PathLike[str]) -> None:
    """Check that a store can keep this name.

    Raises:
        InputError: If it is not UTF-8, or is a path that leads out of the dataset.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
        raise InputError(f"The name '{shown}' in '{where}' is not UTF-8; rename it.") from None
    if first_outside([name]) is not None:
        raise InputError(f"The name '{name}' in '{where}' is a path that leads out of the dataset; rename it.")
