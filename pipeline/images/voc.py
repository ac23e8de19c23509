"""Data sets in the layout of PASCAL VOC: what lies where, and what the annotations say (VOC2007 development kit, section 4).

``JPEGImages/NAME.jpg`` is an image, ``Annotations/NAME.xml`` says which objects are on it, ``ImageSets/Main/SPLIT.txt`` lists
names. The classes are those that the annotations name, sorted. An image without objects is a negative of every class.

Letters: O objects of an image.
"""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

import numpy as np

from compress_ssl.pipeline.common.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

IMAGES, ANNOTATIONS, SPLITS = "JPEGImages", "Annotations", Path("ImageSets", "Main")
LAYOUT = f"{IMAGES}, {ANNOTATIONS}, {SPLITS}"

MOST_BYTES = 4 * 2**20
"""Of one annotation; those of VOC have a few thousand."""

CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Annotation(NamedTuple):
    """The O objects of one image."""

    classes: tuple[str, ...]
    """O names."""
    boxes: npt.NDArray[np.float64]
    """(O, 4) xmin, ymin, xmax, ymax in pixels, counted from 1; the pixels of both ends belong to the object."""
    difficult: npt.NDArray[np.bool_]
    """(O,) objects that are left out of what is measured."""


def is_voc(data: Path) -> bool:
    """Whether a data set has VOC's layout."""
    return (data / IMAGES).is_dir() and (data / SPLITS).is_dir()


def check_voc(data: Path) -> None:
    """Check that a data set has VOC's layout, annotations too.

    Raises
    ------
    InputError
        If it has not.
    """
    missing = next((place for place in (IMAGES, ANNOTATIONS, SPLITS) if not (data / place).is_dir()), None)
    if missing is not None:
        raise InputError(f"'{data}' has no folder {missing}; give a data set in VOC's layout: {LAYOUT}.")


def read_annotations(data: Path, images: Sequence[str], sizes: npt.NDArray[np.integer]) -> list[Annotation]:
    """Read what is on some images of a data set.

    Parameters
    ----------
    data : Path
        The folder that holds ``JPEGImages``.
    images : sequence of str
        N paths in it.
    sizes : int array of shape (N, 2)
        Height and width of each image, in pixels.

    Raises
    ------
    InputError
        If an image has no annotation, or an annotation cannot be used.
    """
    files = [data / ANNOTATIONS / f"{PurePosixPath(image).stem}.xml" for image in images]
    return [
        read_annotation(file, height=int(height), width=int(width))
        for file, (height, width) in zip(files, sizes, strict=True)
    ]


def find_classes(annotations: Iterable[Annotation]) -> tuple[str, ...]:
    """All classes that annotations name, sorted."""
    return tuple(sorted({name for annotation in annotations for name in annotation.classes}))


def read_annotation(file: Path, *, height: int, width: int) -> Annotation:
    """Read what is on one image of this height and width, in pixels.

    Raises
    ------
    InputError
        If the file is missing or too large, is no XML or declares entities; says another size of the image; or has an
        object without a name or a box inside the image.
    """
    root = _parse(file)
    if (size := root.find("size")) is not None:
        said = tuple(_number(file, size, name) for name in ("width", "height"))
        if said != (width, height):
            raise InputError(
                f"'{file}' describes an image of {said[0]:g} x {said[1]:g} pixels, but the image has {width} x {height}; "
                "restore the image that was annotated, or correct the annotation."
            )
    objects = root.findall("object")
    boxes = [_box(file, number, each, height, width) for number, each in enumerate(objects, 1)]
    return Annotation(
        tuple(_class_name(file, number, each) for number, each in enumerate(objects, 1)),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array([(each.findtext("difficult") or "0").strip() == "1" for each in objects], bool),
    )


class _WithoutEntities(TreeBuilder):
    """Refuses a document type: entities, which could fill the memory or name other files, are declared nowhere else."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ParseError(f"it declares a document type, {name}, which an annotation does not need")


def _parse(file: Path) -> Element:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise InputError(f"'{file}' has more than {MOST_BYTES} bytes; it is not the annotation of an image.")
        parser = XMLParser(target=_WithoutEntities())
        parser.feed(file.read_bytes())
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


def _class_name(file: Path, number: int, described: Element) -> str:
    name = (described.findtext("name") or "").strip()
    if not name:
        raise InputError(f"Object {number} of '{file}' has no name; add the name of its class.")
    return name


def _box(file: Path, number: int, described: Element, height: int, width: int) -> tuple[float, ...]:
    place = described.find("bndbox")
    if place is None:
        raise InputError(f"Object {number} of '{file}' has no bndbox; add one, or remove the object.")
    xmin, ymin, xmax, ymax = box = tuple(_number(file, place, corner) for corner in CORNERS)
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
