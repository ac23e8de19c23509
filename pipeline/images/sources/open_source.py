"""Choosing the kind of a split's source from what is on the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.images.sources.folder import FolderSource

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.images.sources.source import ImageSource


def open_source(data: Path, folder: str) -> ImageSource:
    """Open one split of a data set.

    Parameters
    ----------
    data : Path
        The data set.
    folder : str
        The split: a folder of the data set; ``.`` is the data set itself.

    Raises
    ------
    InputError
        If there is nothing that can be read.
    """
    if not data.is_dir():
        what = "is a file" if data.exists() else "does not exist"
        raise InputError(f"The data set '{data}' {what}; give the folder that holds {folder}.")
    if not (data / folder).exists():
        raise InputError(f"The data set '{data}' has no folder '{folder}'; check the path.")
    return FolderSource(data / folder)
