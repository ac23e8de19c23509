"""What every kind of image source can do. Nothing above this folder knows that images may be files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.storage.places.names import first_outside

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's


class Listing(NamedTuple):
    """The images of one split: N names, in the order that a store will have."""

    paths: list[str]
    """N names, ``/`` between parts; no two are the same."""
    labels: npt.NDArray[np.int32]
    """(N,) class numbers; -1 where there is none."""
    class_names: tuple[str, ...]
    """Name of each class number; empty where there are no labels."""


class ImageSource(Protocol):
    """The images of one split. It holds no open file: it can be used from many threads, pickled and forked."""

    @property
    def location(self) -> Path:
        """Where the images are; tells this source from all others."""
        ...

    def listing(self) -> Listing:
        """All images.

        Raises
        ------
        InputError
            If there are none, or a name or a label cannot be used.
        """
        ...

    def stamp(self, path: str) -> tuple[int, int]:
        """Size in bytes, and a number that changes when the image may have changed (its time in ns, or its hash).

        Raises
        ------
        OSError
            If the image is not there.
        """
        ...

    def read(self, path: str) -> bytes:
        """The encoded image.

        Raises
        ------
        OSError
            If the image is not there or cannot be read.
        """
        ...

    def describe(self, path: str) -> str:
        """Where the image is, for a person."""
        ...

    def files(self) -> Iterator[Path]:
        """The files that the images and their labels come from; cheaper than a listing, and without its checks."""
        ...


def is_image(name: str) -> bool:
    """Whether the name is an image's, by its extension."""
    return name.lower().endswith(IMAGE_EXTENSIONS)


def check_name(name: str, where: str | os.PathLike[str]) -> None:
    """Check that a store can keep this name.

    Raises
    ------
    InputError
        If it is not UTF-8, or reads as a path that leads out of the data set.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
        raise InputError(f"The name '{shown}' in '{where}' is not UTF-8; rename it.") from None
    if first_outside([name]) is not None:
        raise InputError(f"The name '{name}' in '{where}' reads as a path that leads out of the data set; rename it.")
