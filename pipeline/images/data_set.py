"""A data set: its splits, each a source of images. Indexes those that a stage asks for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import xxhash

from pipeline.errors import InputError
from pipeline.images.index import ImageIndex, index_images
from pipeline.images.sources.open_source import open_source

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pipeline.progress import Progress
    from pipeline.settings import ImageSelection


def index_data_set(
    data: Path, folders: Iterable[str], output: Path, selection: ImageSelection, *, threads: int, progress: Progress
) -> dict[str, ImageIndex]:
    """Index some folders of a data set.

    Parameters
    ----------
    data : Path
        The data set's root.
    folders : iterable of str
        Relative to the root; ``.`` is the root itself.
    output : Path
        What the index is for; it is kept in ``index`` beside it, unless the selection says where.
    selection : ImageSelection

    Returns
    -------
    indexes : dict from folder to ImageIndex

    Raises
    ------
    InputError
        If the folders, the images or the subset list cannot be used.
    """
    folders = list(folders)
    sources = {folder: open_source(data, folder) for folder in folders}
    subsets = _read_subset(selection.subset, folders) if selection.subset else {}
    index_folder = selection.index_folder or output.parent / "index"
    return {
        folder: index_images(
            source,
            index_folder / _cache_name(source.location),
            only=subsets.get(folder),
            limit=selection.limit,
            skip_bad=selection.on_bad_image == "skip",
            threads=threads,
            progress=progress,
        )
        for folder, source in sources.items()
    }


def _cache_name(location: Path) -> str:
    """Two sources of one name must not share a cache: its entries are relative to the source."""
    resolved = location.resolve()
    return f"{resolved.name}-{xxhash.xxh3_64_hexdigest(os.fsencode(resolved))[:8]}.npz"


def _read_subset(file: Path, folders: list[str]) -> dict[str, list[str]]:
    """Images of each folder that the list names; a folder of which it names none is taken whole."""
    if not file.is_file():
        raise InputError(f"The subset list '{file}' is not a file; give a text file with a path a line.")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"The subset list '{file}' is not UTF-8 text; save it as UTF-8.") from error
    chosen: dict[str, list[str]] = {}
    for line in filter(None, map(str.strip, lines)):
        folder = next((folder for folder in folders if folder == "." or line.startswith(f"{folder}/")), None)
        if folder is None:
            raise InputError(
                f"'{line}', listed in '{file}', is in none of the folders {', '.join(folders)}; write paths relative to "
                "the data set."
            )
        chosen.setdefault(folder, []).append(line.removeprefix(f"{folder}/"))
    if not chosen:
        raise InputError(f"The subset list '{file}' is empty; write a path a line, relative to the data set.")
    return chosen
