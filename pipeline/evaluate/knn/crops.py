"""Features of ten crops for nearest-neighbour search: the mean of an image's L2-normalised crop features.

A search has no probabilities to average over crops, as a classifier has, so training and test images are both
represented by the mean direction of their crops. This is our reading of "10-crop" for nearest neighbours: CompRess
reports no such number.

Letters: N images, D features, R rows of a block.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.evaluate.features import Features, StoredFeatures, l2_normalize
from compress_ssl.pipeline.images.policies import CROPS
from compress_ssl.storage import Split


class CropMeans:
    """The interface of ``StoredFeatures`` for a split whose views 1 to 10 are the ten crops of N good images."""

    def __init__(self, name: str, split: Split) -> None:
        self._crops = [StoredFeatures(name, split, 1 + crop) for crop in range(CROPS)]
        self.labels = self._crops[0].labels  # (N,)

    def blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the features block by block (R, D), in order."""
        for crops in zip(*(crop.blocks() for crop in self._crops), strict=True):
            yield _mean_direction(crops)

    def rows(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Return the features (len(rows), D) of some of the N images."""
        return _mean_direction([crop.rows(rows) for crop in self._crops])

    def in_memory(self) -> Features:
        """Return all features and labels."""
        return Features(np.concatenate(list(self.blocks())), self.labels)


def _mean_direction(crops: Sequence[npt.NDArray[np.floating]]) -> npt.NDArray[np.float32]:
    total = np.zeros(crops[0].shape, np.float32)
    for crop in crops:
        total += l2_normalize(crop)
    total /= len(crops)
    return total
