"""Exact search for the k most similar rows of a bank, by cosine: the basis of nearest neighbour and weighted k-NN.

The bank is streamed through a faiss index block by block, so that besides bank, queries and result memory holds the
normalised queries (4 M D bytes) and one block of the bank twice. It is read once: it may be a memory map, or come from
a store in parts. On a GPU a block is copied there once for all queries, so that it is as large as the memory allows.

The order is defined: larger similarity first, and among equal similarities the smaller row first. faiss does not define
which of equal rows it returns, so a few more are searched for than are kept, and sorted before the cut.

Letters: N rows of the bank, M queries, D features, k neighbours, B queries of a block, R rows of a block of the bank.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt
import torch

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.faiss_index import flat_index
from compress_ssl.pipeline.evaluate.features import l2_normalize

CPU_BLOCK_ROWS = 8_192  # of the bank: 64 MiB with 2,048 features
GPU_BLOCK_BYTES = 2**32  # 131,072 rows of 8,192 features; less on a GPU with less than four times that free
PART_ROWS = 2_048  # of the bank that are normalised, and of the queries that are searched, at once

EXTRA_ROWS = 8  # rows searched for beyond the k that are kept: up to this many ties with the last one are sorted


class Neighbours(NamedTuple):
    """The k most similar rows of a bank for each of M queries, most similar first."""

    similarity: npt.NDArray[np.float32]  # (M, k) cosines
    row: npt.NDArray[np.int64]  # (M, k) rows of the bank


def nearest_neighbours(
    bank: npt.NDArray[np.floating] | Iterable[npt.NDArray[np.floating]],
    queries: npt.NDArray[np.floating],
    k: int,
    *,
    device: torch.device | str = "cpu",
    bank_block: int | None = None,
    query_block: int = PART_ROWS,
) -> Neighbours:
    """Search a bank for the rows most similar to each query.

    Args:
        bank (float array of shape (N, D), or an iterable of such): Rows of an iterable are numbered consecutively.
        queries (float array of shape (M, D)): Neither needs to be normalised; a row of zeros has cosine 0 with every
            row.
        k: Rows to find for each query.
        device (torch.device or str): Similarities are computed in float32 on every device.
        bank_block, query_block: Rows of a block; by default as many as memory allows on a GPU.

    Returns:
        neighbours (Neighbours).

    Raises:
        InputError: If the bank has fewer than k rows, or another number of features than the queries.
    """
    device = torch.device(device)
    dim = queries.shape[1]
    index = flat_index(dim, faiss.METRIC_INNER_PRODUCT, device, k + EXTRA_ROWS)
    queries = l2_normalize(queries)
    found = Neighbours(np.full((len(queries), k), -np.inf, np.float32), np.zeros((len(queries), k), np.int64))
    parts = [slice(start, start + query_block) for start in range(0, len(queries), query_block)]
    count = 0
    for block in _blocks(bank, dim, bank_block or _block_rows(index, device)):  # (R, D)
        index.add(block)
        for part in parts:
            _merge(index, queries[part], count, Neighbours(found.similarity[part], found.row[part]))
        index.reset()
        count += len(block)
    if count < k:
        raise InputError(f"The {count} training images are fewer than the {k} nearest neighbours; give fewer.")
    return found


def _block_rows(index: Any, device: torch.device) -> int:
    if isinstance(index, faiss.IndexFlat):  # which no index on a GPU is
        return CPU_BLOCK_ROWS
    return max(1, min(GPU_BLOCK_BYTES, torch.cuda.mem_get_info(device)[0] // 4) // (4 * int(index.d)))


def _blocks(
    bank: npt.NDArray[np.floating] | Iterable[npt.NDArray[np.floating]], dim: int, rows: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the normalised bank in blocks of ``rows`` rows, the last of fewer; each overwrites the one before."""
    block, filled = np.empty((rows, dim), np.float32), 0
    for array in (bank,) if isinstance(bank, np.ndarray) else bank:
        if array.shape[1] != dim:
            raise InputError(
                f"The training images have {array.shape[1]} features and the test images {dim}; give features of one "
                "network."
            )
        for first in range(0, len(array), PART_ROWS):
            part = l2_normalize(array[first : first + PART_ROWS])
            while len(part):
                taken, part = part[: rows - filled], part[rows - filled :]
                block[filled : filled + len(taken)] = taken
                filled += len(taken)
                if filled == rows:
                    yield block
                    filled = 0
    if filled:
        yield block[:filled]


def _merge(index: Any, queries: npt.NDArray[np.float32], first: int, found: Neighbours) -> None:
    """Merge an index's rows, numbered from ``first``, into the neighbours found so far of queries (B, D), in place."""
    k = found.row.shape[1]
    similarity, column = index.search(queries, min(k + EXTRA_ROWS, index.ntotal))
    similarity = np.concatenate([found.similarity, similarity], axis=1)
    row = np.concatenate([found.row, column + first], axis=1)
    kept = np.lexsort((row, -similarity), axis=1)[:, :k]
    found.similarity[:] = np.take_along_axis(similarity, kept, axis=1)
    found.row[:] = np.take_along_axis(row, kept, axis=1)
