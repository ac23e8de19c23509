"""What is evaluated: features with labels, checked once before anything is computed from them.

Letters: N images, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt

BLOCK_ROWS = 65_536


class Features(NamedTuple):
    """Features and labels of N images."""

    features: npt.NDArray[np.floating]
    """(N, D); need not be normalised."""
    labels: npt.NDArray[np.integer]
    """(N,); class numbers from 0."""


def check_features(name: str, images: Features) -> None:
    """Check that these images can be scored.

    Parameters
    ----------
    name : str
        What to call the images in an error: training, test.
    images : Features

    Raises
    ------
    InputError
        If there is no image, an image has no label, or a feature is not a number; names the row.
    """
    features, labels = images
    if len(features) == 0:
        raise InputError(f"There is no {name} image to evaluate on.")
    if (labels < 0).any():
        raise InputError(
            f"The {name} image in row {int(np.flatnonzero(labels < 0)[0])} has no label; nearest neighbour needs "
            "one: a folder a class, or --labels."
        )
    for start in range(0, len(features), BLOCK_ROWS):
        broken = ~np.isfinite(features[start : start + BLOCK_ROWS]).all(axis=1)
        if broken.any():
            row = start + int(np.flatnonzero(broken)[0])
            raise InputError(f"The {name} features of row {row} are not numbers; embed again.")
