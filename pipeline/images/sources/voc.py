"""Datasets in the layout of PASCAL VOC: images and annotations (VOC2007 development kit, section 4).

``JPEGImages/NAME.jpg`` is an image, ``Annotations/NAME.xml`` describes the objects on it, ``ImageSets/Main/SPLIT.txt``
lists names. The classes are those in the annotations, sorted. An image without objects is a negative of every class.

Letters: O objects of an image.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.images.sources.files import FileSource
from compress_ssl.pipeline.images.sources.source import Listing, check_name, is_image
from compress_ssl.pipeline.images.sources.text import make_listing, read_lines
from compress_ssl.storage.places.local import LocalPath

IMAGES, ANNOTATIONS, SPLITS = "JPEGImages", "Annotations", Path("ImageSets", "Main")

MAX_BYTES = 4 * 2**20  # of one annotation; VOC's have a few thousand


class Annotation(NamedTuple):
    """The O objects of one image."""

    classes: tuple[str, ...]  # O names
    boxes: npt.NDArray[np.float64]  # (O, 4) xmin, ymin, xmax, ymax in pixels, counted from 1, both ends inclusive
    difficult: npt.NDArray[np.bool_]  # (O,) objects that the evaluation ignores


@dataclass(frozen=True)
class VocSource(FileSource):
    """The images of one split, named ``JPEGImages/NAME.jpg``, in the order of the split's list, ``location``.

    They have no labels: an image may show objects of several classes.
    """

    data: Path
    split: str

    @property
    def root(self) -> Path:
        """The dataset's folder."""
        return self.data

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
        files: dict[str, str] = {}
        for name in sorted(path.name for path in folder.iterdir() if is_image(path.name)):
            if (other := files.setdefault(PurePosixPath(name).stem, name)) != name:
                raise InputError(f"'{folder}' holds '{other}' and '{name}', of one annotation; keep one of them.")
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


def is_voc(data: Path) -> bool:
    """Return true if a dataset has VOC's layout, with or without annotations."""
    return (data / IMAGES).is_dir() and (data / SPLITS).is_dir()


def check_voc(data: Path) -> None:
    """Check that a dataset has VOC's layout, with annotations.

    Raises:
        InputError: If it does not.
    """
    missing = next((place for place in (IMAGES, ANNOTATIONS, SPLITS) if not (data / place).is_dir()), None)
    if missing is not None:
        raise InputError(
            f"'{data}' has no folder {missing}; give a dataset in VOC's layout: {IMAGES}, {ANNOTATIONS}, {SPLITS}."
        )


def read_annotations(data: Path, images: Sequence[str], sizes: npt.NDArray[np.integer]) -> list[Annotation]:
    """Read the annotations of N images of a dataset.

    Args:
        data: The folder that holds ``JPEGImages``.
        images: Their paths below it.
        sizes (int array of shape (N, 2)): Height and width of each image, in pixels.

    Raises:
        InputError: If an image has no annotation, or an annotation cannot be used.
    """
    files = [data / ANNOTATIONS / f"{PurePosixPath(image).stem}.xml" for image in images]
    return [
        read_annotation(file, height=int(height), width=int(width))
        for file, (height, width) in zip(files, sizes, strict=True)
    ]


def find_classes(annotations: Iterable[Annotation]) -> tuple[str, ...]:
    """Return the names of all annotated classes, sorted."""
    return tuple(sorted({name for annotation in annotations for name in annotation.classes}))


def read_annotation(file: Path, *, height: int, width: int) -> Annotation:
    """Read the annotation of one image of this height and width, in pixels.

    Raises:
        InputError: If the file is missing, too large, not XML, or declares entities; gives another size of the image;
            or has an object without a name or without a box inside the image.
    """
    root = _parse(file)
    if (size := root.find("size")) is not None:
        annotated = tuple(_number(file, size, name) for name in ("width", "height"))
        if annotated != (width, height):
            raise InputError(
                f"'{file}' describes an image of {annotated[0]:g} x {annotated[1]:g} pixels, but the image has "
                f"{width} x {height}; restore the image that was annotated, or correct the annotation."
            )
    objects = root.findall("object")
    classes = [(each.findtext("name") or "").strip() for each in objects]
    if "" in classes:
        raise InputError(f"Object {classes.index('') + 1} of '{file}' has no name; add the name of its class.")
    boxes = [_box(file, number, each, height, width) for number, each in enumerate(objects, 1)]
    difficult = [(each.findtext("difficult") or "0").strip() == "1" for each in objects]
    return Annotation(tuple(classes), np.array(boxes, np.float64).reshape(-1, 4), np.array(difficult, bool))


class _WithoutEntities(TreeBuilder):
    """Refuses document types: only they can declare entities, which could fill the memory or read other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ParseError(f"it declares a document type, {name}, which an annotation does not need")


def _parse(file: Path) -> Element:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"'{file}' has more than {MAX_BYTES} bytes; it is not the annotation of an image.")
        parser = XMLParser(target=_WithoutEntities())
        parser.feed(LocalPath(file).read_bytes(MAX_BYTES))
        root: Element = parser.close()
    except FileNotFoundError:
        raise InputError(
            f"The image '{file.stem}' has no annotation '{file}'; add it, or take the image out of the split's list."
        ) from None
    except OSError as error:
        raise InputError(f"The annotation '{file}' cannot be read ({error.strerror}); restore it.") from error
    except (ParseError, ValueError, LookupError) as error:  # an unknown encoding is a ValueError or a LookupError
        raise InputError(f"The annotation '{file}' is not XML that can be read ({error}); restore it.") from error
    return root


def _box(file: Path, number: int, element: Element, height: int, width: int) -> tuple[float, ...]:
    corners = element.find("bndbox")
    if corners is None:
        raise InputError(f"Object {number} of '{file}' has no bndbox; add one, or remove the object.")
    xmin, ymin, xmax, ymax = box = tuple(_number(file, corners, corner) for corner in ("xmin", "ymin", "xmax", "ymax"))
    shown = f"The box {box[0]:g}, {box[1]:g}, {box[2]:g}, {box[3]:g} of object {number} of '{file}'"
    if xmax < xmin or ymax < ymin:
        raise InputError(f"{shown} has no area; it is xmin, ymin, xmax, ymax: correct it, or remove the object.")
    if xmin < 1 or ymin < 1 or xmax > width or ymax > height:
        raise InputError(
            f"{shown} is not inside the image of {width} x {height} pixels, which are counted from 1; correct it, or "
            "remove the object."
        )
    return box


def _number(file: Path, element: Element, name: str) -> float:
    text = element.findtext(name) or ""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{name} of a {element.tag} in '{file}' is {text.strip()!r}, not a number; correct it.")
    return number
