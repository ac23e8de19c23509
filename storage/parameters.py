"""Augmentation parameters: their columns, and the values that the view of an image can have.

Every view is made by the same steps, so one set of columns describes every policy:

1. crop a box out of the decoded image, 2. resize the box, 3. crop the view's window out of that, 4. flip;
then, if the columns ask for it, 5. colour jitter, 6. grey, 7. blur.

A split that has mixed views has ``MIX_COLUMNS`` too: 8. mix with the view of the same number of another image.

Letters: N samples, P parameters.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from compress_ssl.storage.attributes import is_mixed
from compress_ssl.storage.errors import StoreError
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

MIX_COLUMNS = (
    "mix_row",  # row of the second image in the split; -1: not mixed
    "mix_share",  # share of the first image inside the box, in 256ths; 0: the second image is pasted (CutMix)
    "mix_left",  # the box, in 256ths of the view's side; the whole view for mixup
    "mix_top",
    "mix_width",
    "mix_height",
)
MIX_COLUMN = {name: number for number, name in enumerate(MIX_COLUMNS, len(COLUMNS))}
MIX_UNIT = 256  # in which shares and boxes are counted
MAX_MIXED_ROWS = 2**24  # float32 holds every row number below it

KNOWN_COLUMNS = (COLUMNS, COLUMNS + MIX_COLUMNS)
"""The columns that a split can have; of others nothing is known."""

FRACTIONS = {"brightness", "contrast", "saturation", "hue", "blur_sigma"}  # the others are whole numbers

SHRINK, DENOMINATORS = "shrink", (4, 2)
"""Key of a view's description: the largest denominator by which its images are decoded smaller; absent for none."""
MIN_SHORT_SIDE = 2  # of an image that is decoded smaller, in sides of its view

Bound = float | npt.NDArray[np.floating[Any]]


def denominators(image_size: npt.NDArray[np.int32], description: Mapping[str, Any]) -> npt.NDArray[np.int32]:
    """Return by how much each of N images is decoded smaller for a view: 1, 2 or 4.

    Args:
        image_size (int32 array of shape (N, 2)): Height and width in pixels.
        description: The view, as a store describes it.
    """
    allowed, short = description.get(SHRINK, 1), image_size.min(axis=1)
    fits = [(short >= MIN_SHORT_SIDE * each * description["size"]) & (each <= allowed) for each in DENOMINATORS]
    return np.select(fits, [np.int32(each) for each in DENOMINATORS], np.int32(1))


def decoded_size(image_size: npt.NDArray[np.int32], description: Mapping[str, Any]) -> npt.NDArray[np.int32]:
    """Return height and width (N, 2) of images as they are decoded for a view. Arguments as of ``denominators``."""
    return -(-image_size // denominators(image_size, description)[:, None])


def _ranges(
    value: Mapping[str, npt.NDArray[np.float32]],
    image_size: npt.NDArray[np.int64],
    size: int,
    resize: int,
    squash: bool,
) -> dict[str, tuple[Bound, Bound]]:
    """Return the least and the greatest value of each of ``COLUMNS``, for N images or for all of them."""
    height, width = image_size.T
    # The longer side grows with the shorter one, if it is not squashed; a random view's box is resized to a square.
    wide, high = (resize * np.maximum(side, 1) // np.maximum(np.minimum(height, width), 1) for side in (width, height))
    resized = (size, wide.astype(np.float32)), (size, high.astype(np.float32))
    resized_width, resized_height = ((resize, resize), (resize, resize)) if squash else resized
    return {
        "crop_width": (1, width.astype(np.float32)),
        "crop_height": (1, height.astype(np.float32)),
        "crop_left": (0, width - value["crop_width"]),
        "crop_top": (0, height - value["crop_height"]),
        "resize_width": resized_width,
        "resize_height": resized_height,
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


def _mix_ranges(value: Mapping[str, npt.NDArray[np.float32]], rows: int) -> dict[str, tuple[Bound, Bound]]:
    """Return the least and the greatest value of each of ``MIX_COLUMNS``, for second images among so many rows."""
    return {
        "mix_row": (-1, rows - 1),
        "mix_share": (0, MIX_UNIT),
        "mix_width": (0, MIX_UNIT),
        "mix_height": (0, MIX_UNIT),
        "mix_left": (0, MIX_UNIT - value["mix_width"]),
        "mix_top": (0, MIX_UNIT - value["mix_height"]),
    }


ROWS_AT_ONCE = 16_384  # so many parameters are checked faster than all together, with less memory beside them


def impossible(
    parameters: npt.NDArray[np.float32],
    status: npt.NDArray[np.uint8],
    image_size: npt.NDArray[np.int32],
    description: Mapping[str, Any],
    all_good: npt.NDArray[np.bool_] | None = None,
) -> Fault:
    """Check the parameters (N, P) of N images, which must be such that the view of a good image can have them.

    Args:
        image_size (int32 array of shape (N, 2)): Height and width in pixels.
        description: The view, as a store describes it: its ``size``, and ``resize`` and ``squash`` of its ``policy`` if
            any.
        all_good: Which rows of the split are good; needed for parameters with ``MIX_COLUMNS``.
    """
    size, policy = description["size"], description.get("policy") or {}
    resize, squash = policy.get("resize", size), policy.get("squash", False)
    for start in range(0, len(parameters), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        decoded = decoded_size(image_size[rows], description).astype(np.int64)
        fault = _impossible(
            parameters[rows], status[rows], decoded, size, resize, squash, is_mixed(description), all_good
        )
        if fault is not None:
            return start + fault[0], fault[1]
    return None


def _impossible(
    parameters: npt.NDArray[np.float32],
    status: npt.NDArray[np.uint8],
    image_size: npt.NDArray[np.int64],
    size: int,
    resize: int,
    squash: bool,
    mixes: bool,
    all_good: npt.NDArray[np.bool_] | None,
) -> Fault:
    columns = COLUMN if all_good is None else COLUMN | MIX_COLUMN
    value = {name: parameters[:, number] for name, number in columns.items()}
    with np.errstate(invalid="ignore"):
        ranges = _ranges(value, image_size, size, resize, squash)
        if all_good is not None:
            ranges |= _mix_ranges(value, len(all_good) if mixes else 0)
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
    if all_good is not None:
        second = np.where(status == Status.GOOD, value["mix_row"], -1).astype(np.int64)
        wrong = np.flatnonzero((second >= 0) & ~all_good[second])
        if len(wrong):
            return int(wrong[0]), f"is mixed with row {second[wrong[0]]}, which is not a good image"
    return None


def check_row_numbers(split: str, columns: tuple[str, ...], samples: int) -> None:
    """Check that a split with these columns can name each of its rows; StoreError if it has too many."""
    if "mix_row" in columns and samples > MAX_MIXED_ROWS:
        raise StoreError(
            f"Split {split} would have {samples:,} rows, and mixed views name at most {MAX_MIXED_ROWS:,}; embed a "
            "subset, or take a policy without mixing."
        )
