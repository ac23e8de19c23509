"""Nearest neighbours with ten crops: an image's feature is the mean of its crops' L2-normalised features.

A search has no probabilities to average over crops, as a classifier has, so training and test images are both described by
the mean direction of theirs. This is our reading of "10-crop" for nearest neighbours: CompRess reports no such figure.

Letters: N images, D features, R rows of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compress_ssl.pipeline.evaluate.features import Features, StoredFeatures
from compress_ssl.pipeline.images.policies import CROPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from compress_ssl.storage import Split


class CropMeans:
    """Features and labels of the N good images of a split whose views 1 to 10 are the ten crops; as ``StoredFeatures``."""

    def __init__(self, name: str, split: Split) -> None:
        self._crops = [StoredFeatures(name, split, 1 + crop) for crop in range(CROPS)]
        self.labels = self._crops[0].labels
        """(N,)"""

    def blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the features (R, D) of some rows after the other, in order."""
        for parts in zip(*(crop.blocks() for crop in self._crops), strict=True):
            yield _mean_direction(parts)

    def rows(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Features (len(rows), D) of some of the N images."""
        return _mean_direction([crop.rows(rows) for crop in self._crops])

    def in_memory(self) -> Features:
        """All of them."""
        return Features(np.concatenate(list(self.blocks())), self.labels)


def _mean_direction(crops: Sequence[npt.NDArray[np.floating]]) -> npt.NDArray[np.float32]:
    total = np.zeros(crops[0].shape, np.float32)
    for crop in crops:
        single = crop.astype(np.float32)
        total += single / np.maximum(np.linalg.norm(single, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    total /= len(crops)
    return total
