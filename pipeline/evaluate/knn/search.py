"""Exact search for the k most similar rows of a bank, by cosine: the basis of nearest neighbour and weighted k-NN.

Bank and queries are streamed through faiss in blocks, so that besides the two and the result memory holds one block of
each in float32. The bank is read once: it may be a memory map, or come from a store block by block. Several devices
share the queries.

The order is defined: larger similarity first, and among equal similarities the smaller row first. faiss does not define
which of equal rows it returns, so a few more are searched for than are kept, and sorted before the cut.

Letters: N rows of the bank, M queries, D features, k neighbours, B queries of a block, R rows of a block of the bank.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt
import torch

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.evaluate.features import l2_normalize

# With 2,048 features: 128 MiB of bank and 16 MiB of queries at a time.
BANK_BLOCK_ROWS = 16_384
QUERY_BLOCK_ROWS = 2_048

EXTRA_ROWS = 8  # rows searched for beyond the k that are kept: up to this many ties with the last one are sorted


Search = Callable[[Any, Any, int], tuple[Any, Any]]
"""Maps (queries (B, D), block (R, D), k) to similarities and rows of the block (B, k)."""


class Neighbours(NamedTuple):
    """The k most similar rows of a bank for each of M queries, most similar first."""

    similarity: npt.NDArray[np.float32]  # (M, k) cosines
    row: npt.NDArray[np.int64]  # (M, k) rows of the bank


def nearest_neighbours(
    bank: npt.NDArray[np.floating] | Iterable[npt.NDArray[np.floating]],
    queries: npt.NDArray[np.floating],
    k: int,
    *,
    devices: Sequence[torch.device | str] = ("cpu",),
    bank_block: int = BANK_BLOCK_ROWS,
    query_block: int = QUERY_BLOCK_ROWS,
) -> Neighbours:
    """Search a bank for the rows most similar to each query.

    Args:
        bank (float array of shape (N, D), or an iterable of such): Rows of an iterable are numbered consecutively.
        queries (float array of shape (M, D)): Neither needs to be normalised; a row of zeros has cosine 0 with every
            row.
        k: Rows to find for each query.
        devices (sequence of torch.device or str): Devices that share the queries; similarities are computed in float32.
        bank_block, query_block: Rows of a block.

    Returns:
        neighbours (Neighbours).

    Raises:
        InputError: If the bank has fewer than k rows, or another number of features than the queries.
    """
    searches = [_search_on(torch.device(device)) for device in devices]
    found = Neighbours(np.full((len(queries), k), -np.inf, np.float32), np.zeros((len(queries), k), np.int64))
    parts = [slice(start, start + query_block) for start in range(0, len(queries), query_block)]
    count = 0
    with ThreadPoolExecutor(len(searches)) as pool:
        for block in _blocks(bank, queries.shape[1], bank_block):  # (R, D)
            tasks = [
                pool.submit(_search_block, search, queries, parts[number :: len(searches)], block, count, found)
                for number, search in enumerate(searches)
            ]
            for task in tasks:
                task.result()
            count += len(block)
    if count < k:
        raise InputError(f"The {count} training images are fewer than the {k} nearest neighbours; give fewer.")
    return found


def _blocks(
    bank: npt.NDArray[np.floating] | Iterable[npt.NDArray[np.floating]], features: int, rows: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the normalised bank in blocks of ``rows`` rows."""
    for part in (bank,) if isinstance(bank, np.ndarray) else bank:
        if part.shape[1] != features:
            raise InputError(
                f"The training images have {part.shape[1]} features and the test images {features}; give features of "
                "one network."
            )
        for first in range(0, len(part), rows):
            yield l2_normalize(part[first : first + rows])


def _search_block(
    search: Search,
    queries: npt.NDArray[np.floating],
    parts: Sequence[slice],
    block: npt.NDArray[np.float32],
    first: int,
    found: Neighbours,
) -> None:
    """Merge the rows of a block (R, D), numbered from ``first``, into the neighbours found so far of some queries."""
    k = found.row.shape[1]
    for part in parts:
        similarity, column = search(l2_normalize(queries[part]), block, min(k + EXTRA_ROWS, len(block)))
        similarity = np.concatenate([found.similarity[part], similarity], axis=1)
        row = np.concatenate([found.row[part], column + first], axis=1)
        kept = np.lexsort((row, -similarity), axis=1)[:, :k]
        found.similarity[part] = np.take_along_axis(similarity, kept, axis=1)
        found.row[part] = np.take_along_axis(row, kept, axis=1)


def _search_on(device: torch.device) -> Search:
    if device.type == "cuda" and hasattr(faiss, "StandardGpuResources"):
        resources = faiss.StandardGpuResources()
        return lambda queries, block, k: faiss.knn_gpu(
            resources, queries, block, k, metric=faiss.METRIC_INNER_PRODUCT, device=device.index or 0
        )
    faiss.omp_set_num_threads(torch.get_num_threads())
    return lambda queries, block, k: faiss.knn(queries, block, k, metric=faiss.METRIC_INNER_PRODUCT)
