"""Text files with one image per line, perhaps with its class; and class indices from class names."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.source import Listing


def read_lines(file: Path, kind: str) -> list[tuple[int, str]]:
    """Return the non-empty lines of a UTF-8 text file, each with its line number.

    Raises:
        InputError: If it is no file, not UTF-8, or empty; the message calls the file a ``kind``.
    """
    if not file.is_file():
        raise InputError(f"The {kind} '{file}' is not a file; give a text file with one image per line.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"The {kind} '{file}' is not UTF-8 text; save it as UTF-8.") from error
    # Not splitlines(): it also splits at characters that a file name may contain, such as U+2028.
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise InputError(f"The {kind} '{file}' is empty; write one image per line.")
    return lines


def number_classes(names: Iterable[str]) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
    """Number classes by their sorted names, as ImageFolder numbers its folders.

    Returns:
        labels (int32 array of shape (N,)): Index of each name in ``class_names``.
        class_names (tuple of str).
    """
    names = list(names)
    class_names = tuple(sorted(set(names)))
    index = {name: label for label, name in enumerate(class_names)}
    return np.array([index[name] for name in names], np.int32), class_names


def make_listing(paths: list[str], classes: Sequence[str] = ()) -> Listing:
    """Return the listing of these images; ``classes`` names each one's class, and is empty without labels."""
    if not any(classes):
        return Listing(paths, np.full(len(paths), -1, np.int32), ())
    return Listing(paths, *number_classes(classes))
