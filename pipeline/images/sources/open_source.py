"""Choose the kind of a split's source by what is on the disk (rules for users: docs/data.md)."""

import os
import re
from pathlib import Path

import xxhash

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.files import FolderSource, ListSource
from compress_ssl.pipeline.images.sources.pack import PackSource, opened_split
from compress_ssl.pipeline.images.sources.source import ImageSource, is_image
from compress_ssl.pipeline.images.sources.tar import TarSource
from compress_ssl.pipeline.images.sources.voc import SPLITS, VocSource, is_voc
from compress_ssl.storage.errors import did_you_mean


def open_source(data: Path, split: str, cache_folder: Path | None = None) -> ImageSource:
    """Open one split of a dataset.

    Args:
        data: A pack, or the folder that holds the split; in VOC's layout the splits are the lists of
            ``ImageSets/Main``.
        split: A split of the pack. In a folder, the first that exists of: the sub-folder ``split`` (``.`` is the folder
            itself), of images or, if it holds only files and some are tars, of shards; a list ``split`` or
            ``split.txt``; tars ``split``, ``split.tar`` or ``split-NUMBER.tar``.
        cache_folder: Folder that caches where the members of tars are.

    Raises:
        InputError: If there is nothing that can be read.
    """
    if data.is_file():
        with opened_split(data, split):
            return PackSource(data / split, (data,), split)
    if not data.is_dir():
        raise InputError(f"The dataset '{data}' does not exist; give the folder or the pack that holds {split}.")
    place = data / split
    if is_voc(data) and not place.is_dir():
        return VocSource(data / SPLITS / f"{split}.txt", data, split)
    shards = _shards_in(place) if place.is_dir() else _shards_beside(place)
    if place.is_dir() and not shards:
        return FolderSource(place)
    for file in (place, place.with_name(f"{place.name}.txt")):
        if file.is_file() and file.suffix == ".txt":
            return ListSource(file)
    if shards:
        cache = cache_folder / f"{cache_name(place)}.members.npz" if cache_folder else None
        return TarSource(place, tuple(shards), cache)
    if place.exists():
        raise InputError(f"'{place}' is a file, but neither a list (.txt) nor a tar; give a folder of images.")
    known = {entry.stem if entry.suffix in (".txt", ".tar") else entry.name for entry in data.iterdir()}
    raise InputError(
        f"The dataset '{data}' has no folder '{split}' (nor {split}.txt, {split}.tar, {split}-000000.tar); check the "
        f"path.{did_you_mean(split, known)}"
    )


def cache_name(location: Path) -> str:
    """Return a cache name that sources of the same name do not share: cache entries are relative to their source."""
    resolved = location.resolve()
    return f"{resolved.name}-{xxhash.xxh3_64_hexdigest(os.fsencode(resolved))[:8]}"


def _shards_in(folder: Path) -> list[Path]:
    """Return the tar files of a folder without sub-folders and images."""
    with os.scandir(folder) as entries:
        if any(entry.is_dir() or is_image(entry.name) for entry in entries):
            return []
    return sorted(folder.glob("*.tar"))


def _shards_beside(place: Path) -> list[Path]:
    """Return the tar files that are the split by their names."""
    if place.is_file() or not place.parent.is_dir():
        return [place] if place.suffix == ".tar" else []
    name = re.compile(rf"{re.escape(place.name)}(-\d+)?\.tar")
    return sorted(path for path in place.parent.iterdir() if name.fullmatch(path.name))
