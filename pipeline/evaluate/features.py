"""Labelled features, in memory or streamed from a store, checked before they are scored.

Letters: N images, D features, R rows of a block.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.storage import Split
from compress_ssl.storage.schema import EVALUATION_VIEW

RowBlock = tuple[slice, npt.NDArray[np.floating]]  # R rows of a split, and their features (R, D)


class Features(NamedTuple):
    """Features and labels of N images, in memory."""

    features: npt.NDArray[np.floating]  # (N, D); need not be normalised
    labels: npt.NDArray[np.integer]  # (N,); class numbers from 0


class StoredFeatures:
    """Features and labels of the N good images of a split in one view, read on demand: the embeddings.

    Raises ``StoreError`` if the view is incomplete or damaged, ``InputError`` as the checks below.

    Args:
        name: How error messages call the images: training, test.
        labelled: Every image needs a label.
    """

    def __init__(self, name: str, split: Split, view: int = EVALUATION_VIEW, *, labelled: bool = True) -> None:
        self.name = name
        self.labels = split.samples.label[split.samples.good]  # (N,)
        self.dim = split.feature_dim  # D
        self.dtype: np.dtype[np.floating] = np.dtype(np.float16)
        self._split, self._view = split, view
        if labelled:
            check_labels(name, self.labels)

    def blocks(self) -> Iterator[npt.NDArray[np.floating]]:
        """Yield the features block by block (R, D), in order."""
        good = self._split.samples.good
        for rows, block in self._blocks():
            features = block[good[rows]]
            check_finite(self.name, features, rows.start + np.flatnonzero(good[rows]))
            yield features

    def rows(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.floating]:
        """Return the features (len(rows), D) of some of the N images."""
        stored = np.flatnonzero(self._split.samples.good)[rows]
        features = self._rows(stored)
        check_finite(self.name, features, stored)
        return features

    def in_memory(self, *, normalised: bool = False) -> Features:
        """Return all features and labels, without a second copy; with ``normalised`` in float32, of unit length."""
        features = np.empty((len(self.labels), self.dim), np.float32 if normalised else self.dtype)
        start = 0
        for block in self.blocks():
            features[start : start + len(block)] = l2_normalize(block) if normalised else block
            start += len(block)
        return Features(features, self.labels)

    def _blocks(self) -> Iterator[RowBlock]:
        return self._split.blocks(self._view)

    def _rows(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.floating]:
        return self._split.rows(self._view, rows)


def l2_normalize(rows: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Return rows (R, D) scaled to unit length in float32; rows of zeros stay zero."""
    single = np.array(rows, np.float32)
    single /= np.maximum(np.linalg.norm(single, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return single


def check_labels(name: str, labels: npt.NDArray[np.integer]) -> None:
    """Check that there are images, each with a label.

    Raises:
        InputError: If there is none, or one has no label; names the row.
    """
    if len(labels) == 0:
        raise InputError(f"There is no {name} image to evaluate on.")
    if (labels < 0).any():
        raise InputError(
            f"The {name} image in row {int(np.flatnonzero(labels < 0)[0])} has no label, and the evaluation needs one; "
            "sort the images into one folder per class, or give --labels."
        )


def check_classes(
    train_labels: npt.NDArray[np.integer], test_labels: npt.NDArray[np.integer], class_names: Sequence[str]
) -> None:
    """Check that a classifier of the test images' classes can be trained.

    Raises:
        InputError: If the training images are of one class, or a class has test images only; names it.
    """
    trained = np.unique(train_labels)
    if len(trained) < 2:
        raise InputError(f"All training images have class '{class_names[trained[0]]}'; a classifier needs two classes.")
    unknown = np.setdiff1d(test_labels, trained)
    if len(unknown):
        raise InputError(
            f"Class '{class_names[unknown[0]]}' has test images but no training image; add some, or leave the class "
            "out of the test images."
        )


def check_finite(name: str, features: npt.NDArray[np.floating], rows: npt.NDArray[np.integer]) -> None:
    """Check that the features (R, D) of these rows (R,) of a store are finite.

    Raises:
        InputError: If one is not; names the row.
    """
    broken = ~np.isfinite(features).all(axis=1)
    if broken.any():
        raise InputError(f"The {name} features of row {int(rows[broken][0])} are not finite; embed again.")
