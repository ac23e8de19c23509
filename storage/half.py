"""From a network's numbers to float16: what it cannot hold stops the run, naming the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from storage.errors import NotRepresentableError

if TYPE_CHECKING:
    import numpy.typing as npt

    from storage.split import Split


def as_float16(
    source: Split, rows: slice, view: int, embeddings: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.float16]:
    """Round the embeddings of these rows to float16; the rows of bad images become NaN.

    Raises
    ------
    NotRepresentableError
        If a good row has a value that is not finite as float16; names the first such row.
    """
    with np.errstate(over="ignore"):
        half = embeddings.astype(np.float16)
    good = source.samples.good[rows]
    half[~good] = np.nan
    broken = np.flatnonzero(~np.isfinite(half).all(axis=1) & good)
    if len(broken):
        first = broken[0]
        row = rows.start + int(first)
        worst = embeddings[first][~np.isfinite(half[first])][0]
        raise NotRepresentableError(
            f"The embedding of '{source.samples.sample_path[row]}' (split {source.name}, row {row}, view {view}) "
            f"holds {worst:g}, which float16 cannot; check the network's weights (did its training diverge?) and its preprocessing, or "
            "run it with --precision float32."
        )
    return half
