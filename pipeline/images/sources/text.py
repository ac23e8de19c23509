"""Text files with one image per line, perhaps with its class; label files; and class indices from class names.

A line of a label file is NAME CLASS: an image of the split, with or without its extension, then a tab or a blank, then
its class. A ``.csv`` file has a header and the same two columns; of Kaggle's ``PredictionString`` the first word is the
class.
"""

import csv
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.source import Listing, composed_otherwise, is_image
from compress_ssl.storage.typed_files import read_text

KAGGLE_COLUMN = "PredictionString"  # LOC_val_solution.csv: a class and a box for every object


MAX_BYTES = 2**32  # of a list of images: about 50 million


def read_lines(file: Path, kind: str) -> list[tuple[int, str]]:
    """Return the non-empty lines of a UTF-8 text file, each with its line number.

    Raises:
        InputError: If it is no file, or empty; the message calls the file a ``kind``.
        UnreadableFileError: If it is not UTF-8.
    """
    if not file.is_file():
        raise InputError(f"The {kind} '{file}' is not a file; give a text file with one image per line.")
    text = read_text(file, limit=MAX_BYTES, otherwise="save it as UTF-8")
    if "\0" in text:
        raise InputError(f"The {kind} '{file}' holds NUL characters, which no name has; save it as text.")
    # Not splitlines(): it also splits at characters that a file name may contain, such as U+2028.
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise InputError(f"The {kind} '{file}' is empty; write one image per line.")
    return lines


def split_line(line: str) -> tuple[str, str]:
    """Return name and class of a line; the class is empty if there is none.

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


def number_classes(names: Iterable[str]) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
    """Return the label of each of N names (int32, (N,)), and the class names, sorted as ImageFolder sorts folders."""
    names = list(names)
    class_names = tuple(sorted(set(names)))
    index = {name: label for label, name in enumerate(class_names)}
    return np.array([index[name] for name in names], np.int32), class_names


def make_listing(paths: list[str], classes: Sequence[str] = ()) -> Listing:
    """Return the listing of these images; ``classes`` names each one's class, and is empty without labels.

    Raises:
        InputError: If the names of two classes look the same.
    """
    if not any(classes):
        return Listing(paths, np.full(len(paths), -1, np.int32), ())
    labels, class_names = number_classes(classes)
    form_of = {unicodedata.normalize("NFC", name): name for name in class_names}
    if twice := [name for name in class_names if form_of[unicodedata.normalize("NFC", name)] != name]:
        raise InputError(f"Class '{twice[0]}' is there in two Unicode forms, NFC and NFD; make one class of them.")
    return Listing(paths, labels, class_names)


def add_labels(listings: Mapping[str, Listing], file: Path) -> dict[str, Listing]:
    """Label the splits that have no labels from a file; the others keep theirs.

    Raises:
        InputError: If the file cannot be used, no split lacks labels, or the lines and those splits' images do not
            match one to one; names the line or the image.
    """
    unlabelled = {split: listing for split, listing in listings.items() if not listing.class_names}
    if not unlabelled:
        raise InputError(
            f"The label file '{file}' is for images without labels, but {', '.join(listings)} have labels of their "
            "own; leave out --labels."
        )
    names = {split: _paths_by_name(listing.paths) for split, listing in unlabelled.items()}
    class_of: dict[tuple[str, str], str] = {}
    for number, name, class_name in _entries(file):
        found = {
            (split, path)
            for split, known in names.items()
            for path in known.get(name) or known.get(name.removeprefix(f"{split}/"), [])
        }
        if len(found) != 1:
            what = "is several images" if found else "is not an image"
            form = composed_otherwise(name, lambda other: any(other in known for known in names.values()))
            raise InputError(
                f"'{name}', in line {number} of '{file}', {what} of {', '.join(names)}{form}; correct the line."
            )
        (image,) = found
        if image in class_of:
            raise InputError(f"'{name}', in line {number} of '{file}', is in an earlier line too; remove one of them.")
        class_of[image] = class_name
    labels, class_names = number_classes(class_of.values())
    label_of = dict(zip(class_of, labels, strict=True))
    result = dict(listings)
    for split, (paths, _, _) in unlabelled.items():
        missing = [path for path in paths if (split, path) not in label_of]
        if missing:
            raise InputError(
                f"'{missing[0]}' in {split} has no line in '{file}' ({len(missing)} of {len(paths)} have none); add it."
            )
        result[split] = Listing(paths, np.array([label_of[split, path] for path in paths], np.int32), class_names)
    return result


def _paths_by_name(paths: Sequence[str]) -> dict[str, list[str]]:
    """Return the images that each name may stand for: a path, with or without its extension."""
    names: dict[str, list[str]] = {}
    for path in paths:
        names.setdefault(str(PurePosixPath(path).with_suffix("")), []).append(path)
    return names | {path: [path] for path in paths}


def _cells(line: str) -> list[str]:
    """Return the cells of a line of CSV; none if csv cannot read it."""
    try:
        return [cell.strip() for cell in next(csv.reader([line]))]
    except csv.Error:  # a cell of more than 128 KiB
        return []


def _entries(file: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line number, name and class of every line."""
    lines = read_lines(file, "label file")
    if file.suffix.lower() == ".csv":
        (_, header), *lines = lines
        columns = _cells(header)
        if columns and is_image(columns[0]):
            raise InputError(f"Line 1 of '{file}' is an image, not a header; write one above it, such as image,class.")
        for number, line in lines:
            cells = _cells(line)
            if len(cells) < 2 or not cells[0] or not cells[1]:
                raise InputError(
                    f"Line {number} of '{file}' has no class; its first two columns are an image and its class."
                )
            yield number, cells[0], cells[1].split()[0] if columns[1:2] == [KAGGLE_COLUMN] else cells[1]
        return
    for number, line in lines:
        name, class_name = split_line(line)
        if not class_name:
            hint = ""
            if name.isdigit():
                hint = ": numbers alone, as in ILSVRC's ground truth, follow a numbering of their own"
            raise InputError(f"Line {number} of '{file}' has no class{hint}; write NAME CLASS on each line.")
        yield number, name, class_name
