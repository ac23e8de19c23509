"""The mean of an image's stored patches as its features, instead of its embedding.

Letters: N images, C channels of the teacher's map, K components of a patch, P positions, R rows of a block.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.evaluate.features import RowBlock, StoredFeatures
from compress_ssl.storage import Split
from compress_ssl.storage.schema import EVALUATION_VIEW


class PatchMeans(StoredFeatures):
    """Features (C,) of each image: the mean over positions of the channels that its patches stand for.

    Raises:
        InputError: If the view has no patches; also as ``StoredFeatures``.
    """

    def __init__(self, name: str, split: Split, view: int = EVALUATION_VIEW, *, labelled: bool = True) -> None:
        super().__init__(name, split, view, labelled=labelled)
        patches = split.patches
        if patches is None or view not in patches.views:
            raise InputError(
                f"View {view} of split {split.name} of '{split.path.parent}' has no patches, and --patch-mean averages "
                "them; embed the images with --patches, or leave --patch-mean out."
            )
        self.dim, self.dtype = patches.channels, np.dtype(np.float32)  # float16 may not hold a map's values

    def _blocks(self) -> Iterator[RowBlock]:
        for rows, codes, scale in self._split.patch_blocks(self._view):
            yield rows, self._mean(codes, scale)

    def _rows(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        blocks, inside = np.divmod(rows, self._split.block_rows)
        means = np.empty((len(rows), self.dim), self.dtype)
        for block in np.unique(blocks).tolist():
            codes, scale = self._split.patch_block(self._view, block)
            here = inside[blocks == block]
            means[blocks == block] = self._mean(codes[here], scale[here])
        return means

    def _mean(self, codes: npt.NDArray[np.int8], scale: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
        """Return the means (R, C) of codes (R, P, K) and scale (R, P); the mean of the components is projected once."""
        mean, basis = self._split.patch_basis
        components = np.einsum("rpk,rp->rk", codes, scale.astype(np.float32)) / np.float32(scale.shape[1])
        means: npt.NDArray[np.float32] = mean + components @ basis
        return means
