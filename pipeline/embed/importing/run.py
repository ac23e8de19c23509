"""Importing: rows are joined to images by name, checked, and written as view 0 of a new store.

What the teacher saw is not known to the pixel, so the store has the evaluation view alone: students learn from it as in
the published code's cached mode (``--student-view fresh``).
"""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.common.device import library_versions
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.embed.importing.matrix import Matrix, open_matrix
from compress_ssl.pipeline.embed.importing.settings import ImportSettings, SplitFile
from compress_ssl.pipeline.images.data_set import describe_data_set, index_beside, list_data_set
from compress_ssl.pipeline.images.index import ImageIndex, index_images
from compress_ssl.pipeline.images.policies import COLUMNS, evaluation_parameters
from compress_ssl.pipeline.images.sources.open_source import cache_name
from compress_ssl.pipeline.images.sources.source import Listing
from compress_ssl.pipeline.images.sources.text import read_lines
from compress_ssl.pipeline.networks.teachers import TEACHERS
from compress_ssl.storage import EmbeddingStore, SplitPlan, open_store
from compress_ssl.storage.publish import OVERWRITE, check_place, new_store
from compress_ssl.storage.schema import EVALUATION_VIEW, block_count, default_block_rows
from compress_ssl.storage.writer import StoreWriter, create_store, exclusive_writer


class _Joined(NamedTuple):
    """One file with its images."""

    matrix: Matrix
    images: ImageIndex
    rows: npt.NDArray[np.int64]  # (N,) row of the matrix of each image


def import_embeddings(settings: ImportSettings, progress: Progress) -> EmbeddingStore:
    """Make a store of embeddings that another program made.

    Returns:
        store (EmbeddingStore): Complete; its only view is the evaluation view.

    Raises:
        InputError: If a file, the list of its images or the data set cannot be used, or they do not fit together.
        NotRepresentableError: If a value is not finite, or not one that float16 holds; names the image.
        StoreExistsError: If the store exists and may not be replaced.
    """
    check_place(settings.store, overwrite=settings.overwrite, instead=OVERWRITE)
    with exclusive_writer(settings.store):
        joined = _join(settings, progress)
        with new_store(settings.store) as folder:
            _write(settings, joined, folder, progress)
    return open_store(settings.store)


def _join(settings: ImportSettings, progress: Progress) -> dict[str, _Joined]:
    """Open the files, and find and look at the image of every row."""
    index_folder = settings.index_folder or index_beside(settings.store)
    listed = list_data_set(settings.data, [file.folder for file in settings.files], index_folder, settings.labels)
    lists = {given.split: given.file for given in settings.paths}
    joined = {}
    for given in settings.files:
        source, listing = listed[given.folder]
        matrix = open_matrix(given.file, settings.array)
        paths = _images_of_rows(given, matrix, listing, lists.get(given.split), settings.data)
        index = index_images(
            source,
            listing,
            index_folder / f"{cache_name(source.location)}.npz",
            only=paths,
            skip_bad=settings.on_bad_image == "skip",
            threads=settings.thread_count,
            progress=progress,
        )
        row_of = {path: row for row, path in enumerate(paths)}
        rows = np.array([row_of[path] for path in index.samples.sample_path], np.int64)
        _check_labels(given.file, matrix, index, rows)
        joined[given.split] = _Joined(matrix, index, rows)
    return joined


def _images_of_rows(
    given: SplitFile, matrix: Matrix, listing: Listing, list_file: Path | None, data: Path
) -> list[str]:
    """Name of the image of each row; of a list, or in ImageFolder's order."""
    count = int(matrix.values.shape[0])
    if list_file is not None:
        paths = _listed(list_file, given.folder, data)
        if len(paths) != count:
            raise InputError(
                f"'{given.file}' has {count:,} rows, '{list_file}' {len(paths):,} lines; a line is the image of a row."
            )
        twice = [path for path, times in Counter(paths).items() if times > 1]
        if twice:
            raise InputError(f"'{twice[0]}' is listed twice in '{list_file}'; every image has one row.")
        return paths
    if matrix.indices is None:
        raise InputError(f"'{given.file}' does not say which image each row is of; give a list with --paths.")
    if count != len(listing.paths):
        raise InputError(
            f"'{given.file}' has {count:,} rows, '{data / given.folder}' {len(listing.paths):,} images; "
            f"give the images it was "
            "made from, or a list of its rows' images with --paths."
        )
    if not np.array_equal(np.sort(matrix.indices), np.arange(count)):
        raise InputError(
            f"The indices of '{given.file}' are not the numbers from 0 to {count - 1}, each once; save it again."
        )
    return [listing.paths[number] for number in matrix.indices]


def _listed(file: Path, folder: str, data: Path) -> list[str]:
    """Paths of a list, relative to the split's folder."""
    paths = [line for _, line in read_lines(file, "list of images")]
    for prefix in (f"{data / folder}/", f"{(data / folder).resolve()}/", f"{folder}/"):
        if all(path.startswith(prefix) for path in paths):
            return [path.removeprefix(prefix) for path in paths]
    return paths


def _check_labels(file: Path, matrix: Matrix, index: ImageIndex, rows: npt.NDArray[np.int64]) -> None:
    samples = index.samples
    if matrix.labels is None or not samples.class_names:
        return
    differing = np.flatnonzero(matrix.labels[rows] != samples.label)
    if len(differing):
        first = differing[0]
        raise InputError(
            f"'{file}' has class {matrix.labels[rows[first]]} for '{samples.sample_path[first]}', the data set class "
            f"{samples.label[first]} ({len(differing):,} of {len(rows):,} differ); give the images it was made from."
        )


def _write(settings: ImportSettings, joined: dict[str, _Joined], folder: Path, progress: Progress) -> None:
    plans = {given.split: _plan(settings, given.folder, joined[given.split]) for given in settings.files}
    create_store(folder, _attributes(settings, joined), plans)
    writer = StoreWriter(folder)
    for name, part in joined.items():
        split = writer.store[name]
        with progress.track(f"import {name}", len(split)) as advance:
            for block in range(block_count(len(split), split.block_rows)):
                rows = split.block_slice(block)
                embeddings = part.matrix.rows(part.rows[rows])
                if settings.normalise:
                    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
                    embeddings /= np.maximum(length, np.finfo(np.float32).tiny)
                parameters = evaluation_parameters(split.samples.image_size[rows], settings.resize, settings.size)
                writer.write_block(name, block, EVALUATION_VIEW, embeddings, parameters)
                advance(rows.stop - rows.start)
    writer.finish()


def _plan(settings: ImportSettings, folder: str, part: _Joined) -> SplitPlan:
    samples, features = part.images.samples, part.matrix.values.shape[1]
    policy = {"name": "evaluation", "resize": settings.resize}
    view = {"policy": policy, "seed": None, "size": settings.size, "interpolation": settings.interpolation}
    rows = settings.block_rows or default_block_rows(len(samples), features)
    return SplitPlan(samples, folder, [view], COLUMNS, features, rows)


def _attributes(settings: ImportSettings, joined: dict[str, _Joined]) -> dict[str, Any]:
    first = next(iter(joined.values())).matrix.values
    facts: dict[str, Any] = {"architecture": "unknown"}
    if (known := TEACHERS.get(settings.teacher)) is not None:
        look = known.preprocessing
        facts = {"architecture": known.architecture, "mean": list(look.mean), "std": list(look.std)}
    return {
        "teacher": {
            "name": settings.teacher,
            **facts,
            "weights_sha256": "unknown",
            "feature_dim": int(first.shape[1]),
            "precision": str(np.dtype(first.dtype)),
            "normalised": settings.normalise,
        },
        "imported": {given.split: given.file.name for given in settings.files},
        "data_set": describe_data_set(settings.data, {name: part.images for name, part in joined.items()}),
        "computed_with": {"versions": library_versions()},
    }
