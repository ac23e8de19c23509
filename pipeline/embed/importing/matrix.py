"""Read embedding matrices of other programs, without unpickling or running anything in their files.

Letters: N rows, D features.
"""

from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple
from zipfile import BadZipFile, ZipFile

import h5py
import numpy as np
import numpy.typing as npt
import torch
import zarr
from typing_extensions import TypedDict
from zarr.storage import LocalStore

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.images.sources.pack import SIGNATURE as HDF5_MAGIC
from compress_ssl.pipeline.networks.checkpoints.file import LEGACY_MAGIC, ZIP_MAGIC, read_checkpoint_file
from compress_ssl.storage.errors import StoreError
from compress_ssl.storage.typed_files import read_json

NPY_MAGIC = b"\x93NUMPY"

ZARR3_CODECS = {"bytes", "crc32c", "blosc", "gzip", "zstd", "transpose", "sharding_indexed"}
"""Codecs of zarr 3 that only pack bytes."""
ZARR2_COMPRESSORS = {"blosc", "gzip", "zlib", "zstd", "lz4", "bz2"}
"""Compressors of zarr 2 that only pack bytes; filters, one of which unpickles, are refused."""


class _Configuration(TypedDict, total=False):
    codecs: list["_Codec"]
    index_codecs: list["_Codec"]


class _Codec(TypedDict, total=False):
    name: str
    id: str
    configuration: _Configuration


class _Metadata(TypedDict, total=False):
    """``zarr.json`` or ``.zarray``, as far as it decides what code will run."""

    zarr_format: int
    shape: list[int]
    codecs: list[_Codec]
    compressor: _Codec | None
    filters: list[_Codec] | None


UNREADABLE = (
    *(OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, ImportError),
    *(SyntaxError, TokenError),  # of numpy's header, which is Python's text of a dict
)


class Matrix(NamedTuple):
    """A matrix whose rows are read on demand, with labels and image indices if its file has them."""

    values: Any  # (N, D) floating: of numpy, h5py or zarr
    labels: npt.NDArray[np.int64] | None = None  # (N,) class numbers
    indices: npt.NDArray[np.int64] | None = None  # (N,) position of each row's image in torchvision's ImageFolder

    def rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Read some rows (len(rows), D)."""
        order = np.argsort(rows)
        values = self.values.oindex if isinstance(self.values, zarr.Array) else self.values
        selected = np.empty((len(rows), self.values.shape[1]), np.float32)
        try:
            selected[order] = values[rows[order]]  # h5py takes ascending rows only
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"Some rows of the embeddings cannot be read ({error}); copy their file again.") from error
        return selected


def open_matrix(file: Path, array: str | None = None) -> Matrix:
    """Open a matrix in a file of any supported format.

    Args:
        array: Its name in an HDF5 file or a zarr group; required if there are several.

    Raises:
        InputError: If the file holds no matrix of numbers, is truncated, or would run code.
    """
    if not file.is_file() and not file.is_dir():
        raise InputError(f"'{file}' is not there; give the file of the embeddings.")
    try:
        if file.is_dir():
            matrix = Matrix(_open_zarr(file, array))
        else:
            with file.open("rb") as opened:
                magic = opened.read(16)
            if magic.startswith(NPY_MAGIC):
                matrix = Matrix(np.load(file, mmap_mode="r", allow_pickle=False))
            elif magic.startswith(HDF5_MAGIC):
                matrix = Matrix(_open_hdf5(file, array))
            elif magic.startswith(ZIP_MAGIC) and _is_npz(file):
                raise InputError(f"'{file}' is an archive of numpy.savez; save its array with numpy.save, as .npy.")
            elif magic.startswith((ZIP_MAGIC, LEGACY_MAGIC)):
                matrix = _open_torch(file)
            else:
                raise InputError(
                    f"'{file}' is neither a file of torch.save, nor .npy, HDF5 or zarr; save the embeddings as one of "
                    "them."
                )
    except (InputError, StoreError):
        raise
    except UNREADABLE as error:
        raise InputError(f"'{file}' cannot be read ({error}); copy it again.") from error
    shape, dtype = matrix.values.shape, np.dtype(matrix.values.dtype)
    if len(shape) != 2 or 0 in shape or dtype.kind != "f":
        raise InputError(f"'{file}' holds {dtype} of shape {tuple(shape)}; embeddings are floating, one row per image.")
    return matrix


def _is_npz(file: Path) -> bool:
    try:
        with ZipFile(file) as archive:
            return all(name.endswith(".npy") for name in archive.namelist())
    except BadZipFile:
        return False


def _open_torch(file: Path) -> Matrix:
    """Open a tensor, or the published code's cached features: (features, labels, indices).

    UMBCvision/CompRess, cache_feats.py and get_feats of eval_knn.py, commit cf33bab: float32 outputs of the network,
    not normalised, of the resized and centre-cropped image, in ImageFolder's order; train_student.py looks up an
    image's row by its index. The first version (eval_knn.py, commit 30a821b) saved (features, labels).
    """
    content = read_checkpoint_file(file, mapped=True).content
    parts = content if isinstance(content, tuple) else (content,)
    if not 1 <= len(parts) <= 3 or not all(isinstance(part, torch.Tensor) for part in parts):
        raise InputError(
            f"'{file}' holds neither a tensor nor (features, labels, indices); save the tensor of embeddings."
        )
    features, *numbers = (part.detach() for part in parts)
    values = (features.float() if features.dtype == torch.bfloat16 else features).numpy()
    for part, name in zip(numbers, ("labels", "indices"), strict=False):
        if part.shape != features.shape[:1] or part.is_floating_point():
            raise InputError(
                f"'{file}' holds {name} of shape {tuple(part.shape)} for features of {tuple(features.shape)}."
            )
    labels, indices = ([part.numpy().astype(np.int64) for part in numbers] + [None, None])[:2]
    return Matrix(values, labels, np.arange(len(values)) if isinstance(content, tuple) and indices is None else indices)


def _open_hdf5(file: Path, array: str | None) -> h5py.Dataset:
    root = h5py.File(file, "r", locking=False)
    matrices: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: object) -> None:  # follows no link out of the file
        if isinstance(item, h5py.Dataset) and item.ndim == 2 and item.dtype.kind == "f":
            matrices[name] = item

    root.visititems(visit)
    matrix = matrices[_choose(file, list(matrices), array)]
    if matrix.external or matrix.is_virtual:
        raise InputError(f"The matrix of '{file}' lies in another file; give that, or copy it into one.")
    return matrix


def _open_zarr(folder: Path, array: str | None) -> zarr.Array[Any]:
    matrices = {
        path.parent.relative_to(folder).as_posix(): metadata
        for name in ("zarr.json", ".zarray")
        for path in (folder / name, *folder.glob(f"*/{name}"))
        if path.is_file() and len((metadata := read_json(path, _Metadata)).get("shape", ())) == 2
    }
    name = "." if set(matrices) == {"."} and array is None else _choose(folder, list(matrices), array)
    metadata = matrices[name]
    if metadata.get("zarr_format") == 2:
        compressor = metadata.get("compressor")
        refused = [each.get("id") for each in metadata.get("filters") or []]
        refused += [compressor["id"]] if compressor and compressor["id"] not in ZARR2_COMPRESSORS else []
    else:
        codecs = list(metadata["codecs"])
        for codec in codecs:  # grows by the codecs inside shards
            inner = codec.get("configuration", _Configuration())
            codecs += [*inner.get("codecs", []), *inner.get("index_codecs", [])]
        refused = [codec["name"] for codec in codecs if codec["name"] not in ZARR3_CODECS]
    if refused:
        raise InputError(
            f"'{folder}' was written with {refused[0]}, which is not read from other programs; write it with zstd."
        )
    special = next((path for path in (folder / name).rglob("*") if not (path.is_file() or path.is_dir())), None)
    if special is not None:  # zarr would wait for the writer of a pipe
        raise InputError(f"'{special}' is neither a file nor a folder; copy the array again.")
    opened = zarr.open_array(LocalStore(folder / name, read_only=True), mode="r")
    assert isinstance(opened, zarr.Array)
    return opened


def _choose(file: Path, names: list[str], array: str | None) -> str:
    if array is not None and array not in names:
        raise unknown_name("matrix", array, names, f" in '{file}'")
    if not names:
        raise InputError(f"'{file}' holds no matrix of numbers.")
    if array is None and len(names) > 1:
        raise InputError(f"'{file}' holds several matrices ({', '.join(sorted(names))}); choose one with --array.")
    return array or names[0]
