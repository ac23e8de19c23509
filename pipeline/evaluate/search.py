"""The k most similar rows of a bank, exactly, by cosine: what nearest neighbour and weighted k-NN are made from.

Bank and queries are streamed in blocks, so what is needed besides the two and the answer does not grow with either: a
block of each in float32, and their similarities. A bank is read once, so it may be a memory map, or come from a store
block after block.

The order is defined: larger similarity first, and of equal similarities the smaller row first, also where they are
more than fit. It does not depend on the blocks, as far as float32 similarities do not. (This is why the search is
torch's: faiss leaves open which of equal rows it takes, and has threads of its own.)

Letters: N rows of the bank, M queries, D features, k neighbours, B rows of a block of queries, R of a block of the bank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt
    from torch import Tensor

# With 2,048 features: 128 MiB of bank, 16 MiB of queries and 128 MiB of similarities at a time.
BANK_BLOCK_ROWS = 16_384
QUERY_BLOCK_ROWS = 2_048


class Neighbours(NamedTuple):
    """The k most similar rows of a bank for each of M queries, the most similar first."""

    similarity: npt.NDArray[np.float32]
    """(M, k) cosines."""
    row: npt.NDArray[np.int64]
    """(M, k) rows of the bank."""


@torch.inference_mode()
def nearest_neighbours(
    bank: npt.NDArray[np.floating] | Iterable[npt.NDArray[np.floating]],
    queries: npt.NDArray[np.floating],
    k: int,
    *,
    device: torch.device | str = "cpu",
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
    device : torch.device or str
        Where similarities are computed, in float32.
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
    similarity = torch.full((len(queries), k), -torch.inf, device=device)
    row = torch.zeros((len(queries), k), dtype=torch.int64, device=device)
    count = 0
    for part in (bank,) if isinstance(bank, np.ndarray) else bank:
        if part.shape[1] != queries.shape[1]:
            raise InputError(
                f"The training images have {part.shape[1]} features and the test images {queries.shape[1]}; give "
                "features of one network."
            )
        for first in range(0, len(part), bank_block):
            block = _normalised(part[first : first + bank_block], device)  # (R, D)
            for start in range(0, len(queries), query_block):
                here = slice(start, start + query_block)
                value, column = _largest(_normalised(queries[here], device) @ block.T, k)
                value = torch.cat([similarity[here], value], dim=1)
                candidate = torch.cat([row[here], column + count], dim=1)
                # Stable: rows of earlier blocks stand first, and stay first among equals.
                kept = value.sort(dim=1, descending=True, stable=True).indices[:, :k]
                similarity[here] = value.gather(1, kept)
                row[here] = candidate.gather(1, kept)
            count += len(block)
    if count < k:
        raise InputError(f"{k} nearest neighbours were asked for, of {count} training images; ask for fewer.")
    return Neighbours(similarity.cpu().numpy(), row.cpu().numpy())


def _normalised(rows: npt.NDArray[np.floating], device: torch.device | str) -> Tensor:
    # A copy: torch takes no array that is read only, and it is divided in place.
    single = torch.from_numpy(np.array(rows)).to(device).float()
    length = torch.linalg.vector_norm(single, dim=1, keepdim=True)
    return single.div_(length.clamp_min_(torch.finfo(torch.float32).tiny))


def _largest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and columns (B, min(k, R)) of the k largest of each row of (B, R), in the order defined above."""
    count = similarity.shape[1]
    k = min(k, count)
    value, column = similarity.topk(min(k + 1, count), dim=1)
    if k < count:
        column = column[:, :k]
        tied = value[:, k - 1] == value[:, k]  # topk chose one of the equals, whichever
        if bool(tied.any()):
            column = column.clone()
            column[tied] = _largest_with_ties(similarity[tied], value[tied, k - 1 : k])[:, :k]
    column = column.sort(dim=1).values
    value = similarity.gather(1, column)
    order = value.sort(dim=1, descending=True, stable=True).indices
    return value.gather(1, order), column.gather(1, order)


def _largest_with_ties(similarity: Tensor, last: Tensor) -> Tensor:
    """Columns of all values larger than ``last`` (B, 1) and then, by column, of those equal to it; then the rest."""
    column = torch.arange(similarity.shape[1], device=similarity.device)
    rank = torch.where(similarity > last, -1, torch.where(similarity == last, column, len(column)))
    return rank.sort(dim=1, stable=True).indices
