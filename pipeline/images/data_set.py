"""A dataset: its splits, each a source of images, indexed when a stage asks for them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.settings import ImageSelection
from compress_ssl.pipeline.common.writable import check_writable
from compress_ssl.pipeline.images.index import ImageIndex, index_images
from compress_ssl.pipeline.images.sources.open_source import cache_name, open_source
from compress_ssl.pipeline.images.sources.source import ImageSource, Listing
from compress_ssl.pipeline.images.sources.text import add_labels, read_lines
from compress_ssl.storage.places.cache import user_cache
from compress_ssl.storage.places.place import PlaceLike, location


def index_data_set(
    data: Path,
    folders: Iterable[str],
    output: PlaceLike,
    selection: ImageSelection,
    *,
    threads: int,
    progress: Progress,
) -> dict[str, ImageIndex]:
    """Index some splits of a dataset.

    Args:
        data: The dataset: a folder or a pack.
        folders: Its splits, as ``open_source`` finds them; ``.`` is the dataset itself.
        output (Path or Place): What the index is for; unless the selection sets a folder, it is cached as
            ``index_beside`` returns.

    Raises:
        InputError: If the folders, the images or the subset list cannot be used, or the index cannot be written.
    """
    index_folder = selection.index_folder or index_beside(output)
    check_writable(index_folder, "--index-folder")
    listed = list_data_set(data, folders, index_folder, selection.labels)
    subsets = subset_by_folder(selection.subset, list(listed)) if selection.subset else {}
    return {
        folder: index_images(
            source,
            listing,
            index_folder / f"{cache_name(source.location)}.npz",
            only=subsets.get(folder),
            limit=selection.limit,
            skip_bad=selection.on_bad_image == "skip",
            threads=threads,
            progress=progress,
        )
        for folder, (source, listing) in listed.items()
    }


def describe_data_set(data: Path, indexes: Mapping[str, ImageIndex]) -> dict[str, Any]:
    """Return what a store records of its images: the dataset's name, and a fingerprint of each split."""
    return {
        "name": data.resolve().name,
        "images": sum(len(index.samples) for index in indexes.values()),
        "fingerprint": {name: index.fingerprint() for name, index in indexes.items()},
        "fingerprint_of": "XXH3-128 of each split's paths (joined by NUL), then its content hashes",
    }


def index_beside(output: PlaceLike) -> Path:
    """Return the folder that caches the index: ``index`` beside a local output, else in the user's cache."""
    place = location(output)
    if place.is_local:
        return Path(str(place.parent)) / "index"
    folder = user_cache("index", place.name)
    if folder is None:
        raise InputError(f"There is no home folder for the index of '{place}'; give --index-folder.")
    return folder


def list_data_set(
    data: Path, folders: Iterable[str], index_folder: Path, labels: Path | None
) -> dict[str, tuple[ImageSource, Listing]]:
    """Open some splits of a dataset and list their images; those without labels take them from a file, if given.

    Raises:
        InputError: If the splits or the label file cannot be used.
    """
    sources = {folder: open_source(data, folder, index_folder) for folder in folders}
    listings = {folder: source.listing() for folder, source in sources.items()}
    if labels is not None:
        listings = add_labels(listings, labels)
    return {folder: (source, listings[folder]) for folder, source in sources.items()}


def subset_by_folder(file: Path, folders: list[str]) -> dict[str, list[str]]:
    """Return the listed images of each folder; a folder with none in the list is used whole.

    Raises:
        InputError: If the list cannot be used, or names an image in none of the folders.
    """
    chosen: dict[str, list[str]] = {}
    for _, line in read_lines(file, "subset list"):
        folder = next((folder for folder in folders if folder == "." or line.startswith(f"{folder}/")), None)
        if folder is None:
            raise InputError(
                f"'{line}', listed in '{file}', is in none of the folders {', '.join(folders)}; write paths relative "
                "to the dataset."
            )
        chosen.setdefault(folder, []).append(line.removeprefix(f"{folder}/"))
    return chosen
