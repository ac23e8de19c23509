"""Augmentation parameters: their columns, and the values that the view of an image can have.

Every view is made by the same steps, so one set of columns describes every policy:

1. crop a box out of the decoded image, 2. resize the box, 3. crop the view's window out of that, 4. flip;
then, if the columns ask for it, 5. colour jitter, 6. grey, 7. blur.

Letters: N samples, P = len(COLUMNS) parameters.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from compress_ssl.storage.schema import Status
from compress_ssl.storage.values import Fault

COLUMNS = (
    "crop_left",  # pixels of the decoded image
    "crop_top",
    "crop_width",
    "crop_height",
    "resize_width",  # pixels the box is resized to
    "resize_height",
    "window_left",  # position of the view's window in the resized box
    "window_top",
    "flip",  # 1: mirrored left to right
    "brightness",  # factors; 1 leaves the image unchanged
    "contrast",
    "saturation",
    "hue",  # shift in turns of the colour circle; 0 leaves the image unchanged
    "jitter_order",  # index into the permutations of the four names before
    "grey",  # 1: converted to grey
    "blur_sigma",  # pixels of the view; 0: no blur
)
COLUMN = {name: number for number, name in enumerate(COLUMNS)}

FRACTIONS = {"brightness", "contrast", "saturation", "hue", "blur_sigma"}  # the others are whole numbers

Bound = float | npt.NDArray[np.floating[Any]]


def _ranges(
    value: Mapping[str, npt.NDArray[np.float32]], image_size: npt.NDArray[np.int64], size: int, resize: int
) -> dict[str, tuple[Bound, Bound]]:
    """Return the least and the greatest value of each column, for N images or for all of them."""
    height, width = image_size.T
    # The longer side grows with the shorter one; a random view's box is resized to a square.
    wide, high = (resize * np.maximum(side, 1) // np.maximum(np.minimum(height, width), 1) for side in (width, height))
    return {
        "crop_width": (1, width.astype(np.float32)),
        "crop_height": (1, height.astype(np.float32)),
        "crop_left": (0, width - value["crop_width"]),
        "crop_top": (0, height - value["crop_height"]),
        "resize_width": (size, wide.astype(np.float32)),
        "resize_height": (size, high.astype(np.float32)),
        "window_left": (0, value["resize_width"] - size),
        "window_top": (0, value["resize_height"] - size),
        "flip": (0, 1),
        "brightness": (0, 2),
        "contrast": (0, 2),
        "saturation": (0, 2),
        "hue": (-0.5, 0.5),
        "jitter_order": (0, 23),
        "grey": (0, 1),
        "blur_sigma": (0, size),
    }


def impossible(
    parameters: npt.NDArray[np.float32],
    status: npt.NDArray[np.uint8],
    image_size: npt.NDArray[np.int32],
    description: Mapping[str, Any],
) -> Fault:
    """Check the parameters (N, P) of N images, which must be such that the view of a good image can have them.

    Args:
        image_size (int32 array of shape (N, 2)): Height and width in pixels.
        description: The view, as a store describes it: its ``size``, and the ``resize`` of its ``policy`` if any.
    """
    size = description["size"]
    value = {name: parameters[:, number] for name, number in COLUMN.items()}
    ranges = _ranges(value, image_size.astype(np.int64), size, (description.get("policy") or {}).get("resize", size))
    with np.errstate(invalid="ignore"):
        for name, (least, greatest) in ranges.items():
            fits = (value[name] >= least) & (value[name] <= greatest)
            if name not in FRACTIONS:
                fits &= value[name] == np.floor(value[name])
            wrong = np.flatnonzero(~fits & (status == Status.GOOD))
            if len(wrong):
                row = int(wrong[0])
                low, high = (float(np.broadcast_to(bound, len(fits))[row]) for bound in (least, greatest))
                whole = "" if name in FRACTIONS else "a whole number "
                return row, f"has {name} = {value[name][row]:g}, which is not {whole}from {low:g} to {high:g}"
    return None
