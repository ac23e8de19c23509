"""Matrices in files of other programs, opened without running or unpickling anything that is in them.

Letters: N rows, D features.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
import torch
import zarr
from zarr.storage import LocalStore

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.images.sources.pack import SIGNATURE as HDF5_START
from compress_ssl.pipeline.networks.checkpoints.file import LEGACY_MAGIC, ZIP_MAGIC, read_checkpoint_file

NPY_START = b"\x93NUMPY"

CODECS = {"bytes", "crc32c", "blosc", "gzip", "zstd", "transpose", "sharding_indexed"}
"""Codecs of zarr 3 that do nothing but pack bytes."""
COMPRESSORS = {"blosc", "gzip", "zlib", "zstd", "lz4", "bz2"}
"""The same of zarr 2; filters, one of which unpickles, are refused."""


class Matrix(NamedTuple):
    """A matrix that is read as far as it is used, and what its file says of the rows."""

    values: Any  # (N, D) floating: of numpy, h5py or zarr
    labels: npt.NDArray[np.int64] | None = None  # (N,) class numbers
    indices: npt.NDArray[np.int64] | None = None
    """(N,) number of each row's image in the order of torchvision's ImageFolder."""

    def rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Some rows (len(rows), D)."""
        order = np.argsort(rows)
        ascending = rows[order]  # h5py takes no others
        values = self.values.oindex if isinstance(self.values, zarr.Array) else self.values
        found = np.empty((len(rows), self.values.shape[1]), np.float32)
        found[order] = values[ascending]
        return found


def open_matrix(file: Path, array: str | None = None) -> Matrix:
    """Open a matrix, whatever kind of file it is in.

    Args:
        array: Its name in an HDF5 file or a zarr group; needed where there are several.

    Raises:
        InputError: If the file holds no matrix of numbers, is not whole, or would run code.
    """
    if not file.exists():
        raise InputError(f"'{file}' is not there; give the file of the embeddings.")
    try:
        matrix = Matrix(_open_zarr(file, array)) if file.is_dir() else _open_file(file, array)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"'{file}' cannot be read ({error}); copy it again.") from error
    shape, dtype = matrix.values.shape, np.dtype(matrix.values.dtype)
    if len(shape) != 2 or 0 in shape or dtype.kind != "f":
        raise InputError(f"'{file}' holds {dtype} of shape {tuple(shape)}; embeddings are floating, a row an image.")
    return matrix


def _open_file(file: Path, array: str | None) -> Matrix:
    with file.open("rb") as begun:
        start = begun.read(16)
    if start.startswith(NPY_START):
        return Matrix(np.load(file, mmap_mode="r", allow_pickle=False))
    if start.startswith(HDF5_START):
        return Matrix(_open_hdf5(file, array))
    if start.startswith((ZIP_MAGIC, LEGACY_MAGIC)):
        return _open_torch(file)
    raise InputError(
        f"'{file}' is neither a file of torch.save, nor .npy, HDF5 or zarr; save the embeddings as one of them."
    )


def _open_torch(file: Path) -> Matrix:
    """A tensor, or the published code's cached features: (features, labels, indices).

    UMBCvision/CompRess, cache_feats.py and get_feats of eval_knn.py, commit cf33bab: float32 features as the network
    puts them out, not normalised; of the resized and centre-cropped image, in ImageFolder's order; train_student.py
    takes the row of an image by its index. The first version (eval_knn.py, commit 30a821b) saved (features, labels).
    """
    content = read_checkpoint_file(file, mapped=True).content
    parts = content if isinstance(content, tuple) else (content,)
    if not 1 <= len(parts) <= 3 or not all(isinstance(part, torch.Tensor) for part in parts):
        raise InputError(
            f"'{file}' holds neither a tensor nor (features, labels, indices); save the tensor of embeddings."
        )
    features, *numbers = (part.detach() for part in parts)
    values = (features.float() if features.dtype == torch.bfloat16 else features).numpy()
    for part, what in zip(numbers, ("labels", "indices"), strict=False):
        if part.shape != features.shape[:1] or part.is_floating_point():
            raise InputError(
                f"'{file}' holds {what} of shape {tuple(part.shape)} for features of {tuple(features.shape)}."
            )
    labels, indices = ([part.numpy().astype(np.int64) for part in numbers] + [None, None])[:2]
    return Matrix(values, labels, np.arange(len(values)) if isinstance(content, tuple) and indices is None else indices)


def _open_hdf5(file: Path, array: str | None) -> h5py.Dataset:
    root = h5py.File(file, "r", locking=False)
    found: dict[str, h5py.Dataset] = {}

    def look_at(name: str, item: object) -> None:  # follows no link out of the file
        if isinstance(item, h5py.Dataset) and item.ndim == 2 and item.dtype.kind == "f":
            found[name] = item

    root.visititems(look_at)
    chosen = found[_choose(file, list(found), array)]
    if chosen.external or chosen.is_virtual:
        raise InputError(f"The matrix of '{file}' lies in another file; give that, or copy it into one.")
    return chosen


def _open_zarr(folder: Path, array: str | None) -> zarr.Array[Any]:
    names = {
        path.parent.relative_to(folder).as_posix(): path
        for name in ("zarr.json", ".zarray")
        for path in (folder / name, *folder.glob(f"*/{name}"))
        if path.is_file() and _is_matrix(json.loads(path.read_bytes()))
    }
    name = "." if set(names) == {"."} and array is None else _choose(folder, list(names), array)
    metadata = json.loads(names[name].read_bytes())
    unknown = _unknown_codecs(metadata)
    if unknown:
        raise InputError(
            f"'{folder}' was written with {unknown[0]}, which is not read from other programs; write it with zstd."
        )
    opened = zarr.open_array(LocalStore(folder / name, read_only=True), mode="r")
    assert isinstance(opened, zarr.Array)
    return opened


def _is_matrix(metadata: dict[str, Any]) -> bool:
    return len(metadata.get("shape", ())) == 2


def _unknown_codecs(metadata: dict[str, Any]) -> list[str]:
    """Names of the codecs, also of those inside shards, that could do more than to pack bytes."""
    if metadata.get("zarr_format") == 2:
        compressor = metadata.get("compressor")
        names = [each.get("id") for each in metadata.get("filters") or []]
        return names + ([compressor["id"]] if compressor and compressor["id"] not in COMPRESSORS else [])
    codecs = list(metadata["codecs"])
    for codec in codecs:
        configuration = codec.get("configuration", {})
        codecs += configuration.get("codecs", []) + configuration.get("index_codecs", [])
    return [codec["name"] for codec in codecs if codec["name"] not in CODECS]


def _choose(file: Path, names: list[str], array: str | None) -> str:
    if array is not None and array not in names:
        raise unknown_name("matrix", array, names, f" in '{file}'")
    if array is None and len(names) != 1:
        what = (
            f"several matrices ({', '.join(sorted(names))}); choose one with --array"
            if names
            else "no matrix of numbers"
        )
        raise InputError(f"'{file}' holds {what}.")
    return array or names[0]
