"""From a network's numbers to float16: what it cannot hold stops the run, naming the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from compress_ssl.storage.errors import NotRepresentableError

if TYPE_CHECKING:
    import numpy.typing as npt

    from compress_ssl.storage.split import Split

SMALLEST_NORMAL = 2.0**-14
"""Below it float16 loses digits."""


def as_float16(
    source: Split, rows: slice, view: int, embeddings: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.float16]:
    """Round the embeddings of these rows to float16; the rows of bad images become NaN.

    Raises
    ------
    NotRepresentableError
        If a good row has a value that is not finite as float16, or is not zero and has none that float16 holds in
        full precision; names the first such row.
    """
    with np.errstate(over="ignore"):
        half = embeddings.astype(np.float16)
    good = source.samples.good[rows]
    half[~good] = np.nan
    largest = np.abs(embeddings).max(axis=1)
    too_small = (largest > 0) & (largest < SMALLEST_NORMAL)
    broken = np.flatnonzero((~np.isfinite(half).all(axis=1) | too_small) & good)
    if len(broken):
        first = int(broken[0])
        row = rows.start + first
        outside = embeddings[first][~np.isfinite(half[first])]
        held = f"holds {outside[0]:g}" if len(outside) else f"holds nothing larger than {largest[first]:g}"
        raise NotRepresentableError(
            f"The embedding of '{source.samples.sample_path[row]}' (split {source.name}, row {row}, view {view}) "
            f"{held}, which float16 cannot; check the network's weights (did its training diverge?) and its preprocessing, "
            "run it with --precision float32, or keep directions alone with --normalise."
        )
    return half
