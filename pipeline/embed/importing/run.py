"""``store import``: match rows to images by name, check them, and write them as view 0 of a new store.

The teacher's exact pixels are unknown, so the store has only the evaluation view: students learn from it as in the
published code's cached mode (``--student-view fresh``).
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.common.device import library_versions
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.embed.checks.collapse import warn_if_collapsed
from compress_ssl.pipeline.embed.importing.matrix import Matrix, open_matrix
from compress_ssl.pipeline.embed.importing.settings import ImportSettings, SplitFile
from compress_ssl.pipeline.images.data_set import describe_data_set, index_beside, list_data_set
from compress_ssl.pipeline.images.index import ImageIndex, index_images
from compress_ssl.pipeline.images.parameters import evaluation_parameters
from compress_ssl.pipeline.images.sources.open_source import cache_name
from compress_ssl.pipeline.images.sources.source import Listing
from compress_ssl.pipeline.images.sources.text import read_lines
from compress_ssl.pipeline.networks.teachers import TEACHERS
from compress_ssl.storage import EmbeddingStore, SplitPlan, open_store
from compress_ssl.storage.parameters import COLUMNS
from compress_ssl.storage.publish import OVERWRITE, check_place, new_store
from compress_ssl.storage.schema import EVALUATION_VIEW, default_block_rows
from compress_ssl.storage.writer import StoreWriter, create_store, exclusive_writer


class _SplitMatrix(NamedTuple):
    matrix: Matrix
    images: ImageIndex
    rows: npt.NDArray[np.int64]  # (N,) row of the matrix of each image


def import_embeddings(settings: ImportSettings, progress: Progress) -> EmbeddingStore:
    """Make a store of embeddings that another program computed.

    Returns:
        store (EmbeddingStore): Complete; its only view is the evaluation view.

    Raises:
        InputError: If a file, the list of its images or the dataset cannot be used, or they do not fit together.
        NotRepresentableError: If a value is not finite, or does not fit in float16; names the image.
        StoreExistsError: If the store exists and ``overwrite`` is not set.
    """
    check_place(settings.store, overwrite=settings.overwrite, instead=OVERWRITE)
    with exclusive_writer(settings.store):
        parts = _open_splits(settings, progress)
        with new_store(settings.store) as folder:
            create_store(folder, _attributes(settings, parts), _plan_splits(settings, parts))
            writer = StoreWriter(folder)
            for name, part in parts.items():
                split = writer.store[name]
                with progress.track(f"import {name}", len(split)) as advance:
                    for block in range(split.block_count):
                        rows = split.block_slice(block)
                        embeddings, sizes = part.matrix.rows(part.rows[rows]), split.samples.image_size[rows]
                        wrong = np.flatnonzero(~np.isfinite(embeddings).all(axis=1) & split.samples.good[rows])
                        if len(wrong):
                            path = split.samples.sample_path[rows.start + int(wrong[0])]
                            raise InputError(
                                f"The row of '{path}' for split {name} holds NaN or infinity; compute its embedding "
                                "again, or leave the image out."
                            )
                        if settings.normalise:
                            norm = np.linalg.norm(embeddings, axis=1, keepdims=True)
                            embeddings /= np.maximum(norm, np.finfo(np.float32).tiny)
                        parameters = evaluation_parameters(sizes, settings.resize, settings.size)
                        writer.write_block(name, block, EVALUATION_VIEW, embeddings, parameters)
                        advance(rows.stop - rows.start)
            writer.finish()
    store = open_store(settings.store)
    warn_if_collapsed(store)
    return store


def _open_splits(settings: ImportSettings, progress: Progress) -> dict[str, _SplitMatrix]:
    """Open each split's matrix, and index the images of its rows."""
    index_folder = settings.index_folder or index_beside(settings.store)
    listed = list_data_set(settings.data, [file.folder for file in settings.files], index_folder, settings.labels)
    lists = {given.split: given.file for given in settings.paths}
    parts = {}
    for given in settings.files:
        source, listing = listed[given.folder]
        matrix = open_matrix(given.file, settings.array)
        paths = _image_paths(given, matrix, listing, lists.get(given.split), settings.data)
        index = index_images(
            source,
            listing,
            index_folder / f"{cache_name(source.location)}.npz",
            only=paths,
            skip_bad=settings.on_bad_image == "skip",
            threads=settings.threads or len(os.sched_getaffinity(0)),
            progress=progress,
        )
        samples, row_of = index.samples, {path: row for row, path in enumerate(paths)}
        rows = np.array([row_of[path] for path in samples.sample_path], np.int64)
        if matrix.labels is not None and samples.class_names:
            labels = matrix.labels[rows]
            differing = np.flatnonzero(labels != samples.label)
            if len(differing):
                first = differing[0]
                raise InputError(
                    f"'{given.file}' has class {labels[first]} for '{samples.sample_path[first]}', the dataset class "
                    f"{samples.label[first]} ({len(differing):,} of {len(rows):,} differ); give the images it was made "
                    "from."
                )
        parts[given.split] = _SplitMatrix(matrix, index, rows)
    return parts


def _image_paths(given: SplitFile, matrix: Matrix, listing: Listing, list_file: Path | None, data: Path) -> list[str]:
    """Return the path of each row's image, relative to the split's folder: from a list, or by ImageFolder's order."""
    count, folder = int(matrix.values.shape[0]), data / given.folder
    if list_file is not None:
        paths = [line for _, line in read_lines(list_file, "list of images")]
        for prefix in (f"{folder}/", f"{folder.resolve()}/", f"{given.folder}/"):
            if all(path.startswith(prefix) for path in paths):
                paths = [path.removeprefix(prefix) for path in paths]
                break
        if len(paths) != count:
            raise InputError(
                f"'{given.file}' has {count:,} rows, '{list_file}' {len(paths):,} lines; give one line per row."
            )
        path, times = Counter(paths).most_common(1)[0]
        if times > 1:
            raise InputError(f"'{path}' is listed twice in '{list_file}'; every image has one row.")
        return paths
    if matrix.indices is None:
        raise InputError(f"'{given.file}' does not record the image of each row; give a list with --paths.")
    if count != len(listing.paths):
        raise InputError(
            f"'{given.file}' has {count:,} rows, '{folder}' {len(listing.paths):,} images; give the images it was made "
            "from, or a list of its rows' images with --paths."
        )
    if not np.array_equal(np.sort(matrix.indices), np.arange(count)):
        raise InputError(
            f"The indices of '{given.file}' are not the numbers from 0 to {count - 1}, each once; save it again."
        )
    return [listing.paths[number] for number in matrix.indices]


def _plan_splits(settings: ImportSettings, parts: dict[str, _SplitMatrix]) -> dict[str, SplitPlan]:
    policy = {"name": "evaluation", "resize": settings.resize}
    view = {"policy": policy, "seed": None, "size": settings.size, "interpolation": settings.interpolation}
    plans = {}
    for given in settings.files:
        samples, features = parts[given.split].images.samples, parts[given.split].matrix.values.shape[1]
        block_rows = settings.block_rows or default_block_rows(len(samples), features)
        plans[given.split] = SplitPlan(samples, given.folder, [view], COLUMNS, features, block_rows)
    return plans


def _attributes(settings: ImportSettings, parts: dict[str, _SplitMatrix]) -> dict[str, Any]:
    first = next(iter(parts.values())).matrix.values
    network: dict[str, Any] = {"architecture": "unknown"}
    if (known := TEACHERS.get(settings.teacher)) is not None:
        mean, std = known.preprocessing.mean, known.preprocessing.std
        network = {"architecture": known.architecture, "mean": list(mean), "std": list(std)}
    return {
        "teacher": {
            "name": settings.teacher,
            **network,
            "weights_sha256": "unknown",
            "feature_dim": int(first.shape[1]),
            "precision": str(np.dtype(first.dtype)),
            "normalised": settings.normalise,
        },
        "imported": {given.split: given.file.name for given in settings.files},
        "data_set": describe_data_set(settings.data, {name: part.images for name, part in parts.items()}),
        "computed_with": {"versions": library_versions()},
    }
