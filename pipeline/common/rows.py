"""Choose some of many rows."""

import numpy as np
import numpy.typing as npt


def evenly_spaced(rows: npt.NDArray[np.int64], count: int, *, endpoint: bool = False) -> npt.NDArray[np.int64]:
    """Return at most ``count`` of these rows, evenly spaced in their order.

    The first row is always among them, the last only with ``endpoint``. Rows of a dataset sorted by class therefore
    still come from all classes.
    """
    if count >= len(rows):
        return rows
    steps = count - 1 if endpoint else count
    return rows[np.arange(count) * (len(rows) - endpoint) // max(1, steps)]
