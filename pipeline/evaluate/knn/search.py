"""The k most similar rows of a bank, exactly, by cosine: what nearest neighbour and weighted k-NN are made from.

Bank and queries are streamed through faiss in blocks, so what is needed besides the two and the answer does not grow with
either: a block of each in float32. A bank is read once, so it may be a memory map, or come from a store block after block.
Several devices share the queries.

The order is defined: larger similarity first, and of equal similarities the smaller row first. faiss leaves open which
of equal rows it gives, so a few more are asked for than are kept, and cut in that order.

Letters: N rows of the bank, M queries, D features, k neighbours, B rows of a block of queries, R of a block of the bank.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import faiss
import numpy as np
import torch

from compress_ssl.pipeline.common.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt

# With 2,048 features: 128 MiB of bank and 16 MiB of queries at a time.
BANK_BLOCK_ROWS = 16_384
QUERY_BLOCK_ROWS = 2_048

EQUALS = 8
"""Rows asked for beyond the k that are kept: so many with the last one's similarity are put in order."""


class Neighbours(NamedTuple):
    """The k most similar rows of a bank for each of M queries, the most similar first."""

    similarity: npt.NDArray[np.float32]
    """(M, k) cosines."""
    row: npt.NDArray[np.int64]
    """(M, k) rows of the bank."""


def nearest_neighbours(
    bank: npt.NDArray[np.floating] | Iterable[npt.NDArray[np.floating]],
    queries: npt.NDArray[np.floating],
    k: int,
    *,
    devices: Sequence[torch.device | str] = ("cpu",),
    bank_block: int = BANK_BLOCK_ROWS,
    query_block: int = QUERY_BLOCK_ROWS,
) -> Neighbours:
    """Search a bank.

    Parameters
    ----------
    bank : float array of shape (N, D), or an iterable of such
        Of an iterable, rows are numbered through.
    queries : float array of shape (M, D)
        Neither need be normalised; a row of zeros has cosine 0 with every other.
    k : int
        How many rows to find for each query.
    devices : sequence of torch.device or str
        Where similarities are computed, in float32; each takes its share of the queries.
    bank_block, query_block : int
        Rows of a block.

    Returns
    -------
    neighbours : Neighbours

    Raises
    ------
    InputError
        If the bank has fewer than k rows, or another number of features than the queries.
    """
    searches = [_search_on(torch.device(device)) for device in devices]
    found = Neighbours(np.full((len(queries), k), -np.inf, np.float32), np.zeros((len(queries), k), np.int64))
    starts = range(0, len(queries), query_block)
    count = 0
    with ThreadPoolExecutor(len(searches)) as pool:
        for block in _blocks(bank, queries.shape[1], bank_block):  # (R, D)

            def search_share(number: int, block: npt.NDArray[np.float32] = block, first: int = count) -> None:
                for start in starts[number :: len(searches)]:
                    here = slice(start, start + query_block)
                    value, column = searches[number](_normalised(queries[here]), block, min(k + EQUALS, len(block)))
                    _keep_best(found, here, value, column + first)

            list(pool.map(search_share, range(len(searches))))
            count += len(block)
    if count < k:
        raise InputError(f"{k} nearest neighbours were asked for, of {count} training images; ask for fewer.")
    return found


def _blocks(
    bank: npt.NDArray[np.floating] | Iterable[npt.NDArray[np.floating]], features: int, rows: int
) -> Iterator[npt.NDArray[np.float32]]:
    """The bank, normalised, in blocks of so many rows."""
    for part in (bank,) if isinstance(bank, np.ndarray) else bank:
        if part.shape[1] != features:
            raise InputError(
                f"The training images have {part.shape[1]} features and the test images {features}; give features of "
                "one network."
            )
        for first in range(0, len(part), rows):
            yield _normalised(part[first : first + rows])


def _keep_best(found: Neighbours, here: slice, similarity: npt.NDArray[np.float32], row: npt.NDArray[np.int64]) -> None:
    """Put what was found of some queries among what was found before; of equal similarities the smaller row is first."""
    k = found.row.shape[1]
    value = np.concatenate([found.similarity[here], similarity], axis=1)
    candidate = np.concatenate([found.row[here], row], axis=1)
    kept = np.lexsort((candidate, -value), axis=1)[:, :k]
    found.similarity[here] = np.take_along_axis(value, kept, axis=1)
    found.row[here] = np.take_along_axis(candidate, kept, axis=1)


Search = Callable[[Any, Any, int], tuple[Any, Any]]
"""(queries (B, D), block (R, D), k) to similarities and rows of the block (B, k)."""


def _search_on(device: torch.device) -> Search:
    if device.type == "cuda":
        resources = faiss.StandardGpuResources()
        return lambda queries, block, k: faiss.knn_gpu(
            resources, queries, block, k, metric=faiss.METRIC_INNER_PRODUCT, device=device.index or 0
        )
    faiss.omp_set_num_threads(torch.get_num_threads())
    return lambda queries, block, k: faiss.knn(queries, block, k, metric=faiss.METRIC_INNER_PRODUCT)


def _normalised(rows: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    single = np.array(rows, np.float32)
    single /= np.maximum(np.linalg.norm(single, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return single
