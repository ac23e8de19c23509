"""Text files of a user's: a line an image, perhaps with its class; and classes from names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compress_ssl.pipeline.common.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy.typing as npt


def read_lines(file: Path, what: str) -> list[tuple[int, str]]:
    """Lines of a UTF-8 text file that are not empty, each with its number.

    Raises
    ------
    InputError
        If it is no file, no UTF-8 text, or has no line; calls it ``what``.
    """
    if not file.is_file():
        raise InputError(f"The {what} '{file}' is not a file; give a text file with an image a line.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"The {what} '{file}' is not UTF-8 text; save it as UTF-8.") from error
    # Not splitlines: a name may hold the odd characters that it takes for ends of lines.
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise InputError(f"The {what} '{file}' is empty; write an image a line.")
    return lines


def number_classes(names: Iterable[str]) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
    """Number classes by their sorted names, as ImageFolder numbers its folders.

    Returns
    -------
    labels : int32 array of shape (N,)
        Position of each name among ``class_names``.
    class_names : tuple of str
    """
    names = list(names)
    class_names = tuple(sorted(set(names)))
    number = {name: label for label, name in enumerate(class_names)}
    return np.array([number[name] for name in names], np.int32), class_names
