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

NOT_FINITE = 0x7C00  # the least bits of the magnitude of a float16 that is infinite or NaN


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
    wrong = np.flatnonzero((largest_bits(np.ascontiguousarray(embeddings)) >= NOT_FINITE) & good)
    return (int(wrong[0]), "has an embedding that is not finite") if len(wrong) else None


def is_finite(values: npt.NDArray[np.float16]) -> bool:
    """Return whether all values of a contiguous array are finite."""
    return bool(largest_bits(values.reshape(-1)) < NOT_FINITE)


def largest_bits(rows: npt.NDArray[np.float16]) -> npt.NDArray[np.integer[Any]]:
    """Return the bits of the largest magnitude of each row (N,) of a contiguous array (N, D); NaN is the largest."""
    # Bits grow with the magnitude; as uint16 those of negative numbers are above all others, as int16 below them. No
    # array of the size of the rows is made, which would take most of the time.
    positive = rows.view(np.int16).max(axis=-1, initial=0)
    largest: npt.NDArray[np.integer[Any]]
    largest = np.maximum(positive, rows.view(np.uint16).max(axis=-1, initial=0) & 0x7FFF)
    return largest
