"""Checks of the values in a store, which may come from anybody with checksums that fit: ``embed`` could write them.

Each check returns the first row that is wrong, and what is wrong with it; None if there is none.

Letters: N samples, D features.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from compress_ssl.storage.schema import Status

MAX_IMAGE_PIXELS = 2**28  # of a decoded image; Pillow refuses to decode so many

Fault = tuple[int, str] | None

ROWS_AT_ONCE = 64  # so many embeddings are tested faster than all together, whose intermediate results no cache holds
NOT_FINITE = 0xF800  # the least bits of a float16 that is infinite or NaN, shifted by its sign


def wrong_sample(
    status: npt.NDArray[np.uint8], label: npt.NDArray[np.int32], image_size: npt.NDArray[np.int32], classes: int
) -> Fault:
    """Check N samples.

    Args:
        classes: Number of the split's classes.
    """
    height, width = image_size.astype(np.int64).T
    pixels = height * width
    too_large = (height < 1) | (width < 1) | (height > MAX_IMAGE_PIXELS) | (width > MAX_IMAGE_PIXELS)
    wrong: dict[str, tuple[npt.NDArray[np.bool_], npt.NDArray[Any]]] = {
        "status": (status > max(Status), status),
        "label": ((label < -1) | (label >= classes), label),
        "image_size": ((too_large | (pixels > MAX_IMAGE_PIXELS)) & (status == Status.GOOD), image_size),
    }
    for name, (is_wrong, values) in wrong.items():
        if is_wrong.any():
            row = int(np.flatnonzero(is_wrong)[0])
            return row, f"has the {name} {values[row].tolist()}"
    return None


def not_finite(embeddings: npt.NDArray[np.float16], good: npt.NDArray[np.bool_]) -> Fault:
    """Check embeddings (N, D), of which those of good images (N,) must be finite."""
    for start in range(0, len(embeddings), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        bits = np.ascontiguousarray(embeddings[rows]).view(np.uint16) << 1
        wrong = np.flatnonzero((bits.max(axis=1, initial=0) >= NOT_FINITE) & good[rows])
        if len(wrong):
            return start + int(wrong[0]), "has an embedding that is not finite"
    return None
