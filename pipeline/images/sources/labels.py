"""Labels from a text file, for images that come without.

A line is NAME CLASS: an image of the split, with or without its extension, then a tab or a blank, then its class. A
``.csv`` file has a header and the same two columns; of Kaggle's ``PredictionString`` the first word counts.
"""

from __future__ import annotations

import csv
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.source import Listing, is_image
from compress_ssl.pipeline.images.sources.text import number_classes, read_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

KAGGLES_COLUMN = "PredictionString"  # LOC_val_solution.csv: a class and a box, for every object


def add_labels(listings: Mapping[str, Listing], file: Path) -> dict[str, Listing]:
    """Give the splits that have no labels those of a file; the others keep theirs.

    Parameters
    ----------
    listings : mapping from split to Listing
    file : Path

    Raises
    ------
    InputError
        If the file cannot be used, no split is without labels, or the lines and those splits' images do not match
        one to one; names the line or the image.
    """
    unlabelled = {split: listing for split, listing in listings.items() if not listing.class_names}
    if not unlabelled:
        raise InputError(
            f"The label file '{file}' is for images without labels, but {', '.join(listings)} have labels of their "
            "own; leave --labels away."
        )
    class_of: dict[tuple[str, str], str] = {}
    names = {split: _Names(listing.paths) for split, listing in unlabelled.items()}
    for number, name, class_name in _entries(file):
        found = {(split, path) for split, known in names.items() for path in known.find(name, split)}
        what = "" if len(found) == 1 else "is not an image" if not found else "is several images"
        if what:
            raise InputError(f"'{name}', in line {number} of '{file}', {what} of {', '.join(names)}; correct the line.")
        (image,) = found
        if image in class_of:
            raise InputError(f"'{name}', in line {number} of '{file}', is in an earlier line too; remove one of them.")
        class_of[image] = class_name
    _, class_names = number_classes(class_of.values())
    label = {name: number for number, name in enumerate(class_names)}
    result = dict(listings)
    for split, listing in unlabelled.items():
        missing = [path for path in listing.paths if (split, path) not in class_of]
        if missing:
            raise InputError(
                f"'{missing[0]}' in {split} has no line in '{file}' ({len(missing)} of {len(listing.paths)} have none); "
                "add it."
            )
        labels = listing.labels.copy()
        labels[:] = [label[class_of[split, path]] for path in listing.paths]
        result[split] = Listing(listing.paths, labels, class_names)
    return result


class _Names:
    """What the images of a split may be called: their path, also without extension, also below the split."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = set(paths)
        self._stems: dict[str, list[str]] = {}
        for path in paths:
            self._stems.setdefault(str(PurePosixPath(path).with_suffix("")), []).append(path)

    def find(self, name: str, split: str) -> list[str]:
        found: list[str] = []
        for called in (name, name.removeprefix(f"{split}/")):
            found = found or ([called] if called in self._paths else self._stems.get(called, []))
        return found


def _entries(file: Path) -> Iterator[tuple[int, str, str]]:
    """Number, name and class of every line."""
    if file.suffix.lower() == ".csv":
        yield from _csv_entries(file)
        return
    for number, line in read_lines(file, "label file"):
        name, class_name = split_line(line)
        if not class_name:
            hint = ""
            if name.isdigit():
                hint = ": numbers alone, as in ILSVRC's ground truth, follow a numbering of their own"
            raise InputError(f"Line {number} of '{file}' has no class{hint}; write NAME CLASS a line.")
        yield number, name, class_name


def split_line(line: str) -> tuple[str, str]:
    """Name and class of a line; the class is empty where there is none.

    A tab ends the name. Without one, a line that ends in an image's extension is a name alone, and of any other line
    the last word is the class.
    """
    if "\t" in line:
        name, _, class_name = line.partition("\t")
        return name.strip(), class_name.strip()
    if is_image(line) or " " not in line:
        return line, ""
    name, class_name = line.rsplit(maxsplit=1)
    return name, class_name


def _csv_entries(file: Path) -> Iterator[tuple[int, str, str]]:
    (_, header), *lines = read_lines(file, "label file")
    columns = next(csv.reader([header]))
    for number, line in lines:
        cells = [cell.strip() for cell in next(csv.reader([line]))]
        if len(cells) < 2 or not cells[0] or not cells[1]:
            raise InputError(
                f"Line {number} of '{file}' has no class; its first two columns are an image and its class."
            )
        yield number, cells[0], cells[1].split()[0] if columns[1:2] == [KAGGLES_COLUMN] else cells[1]
