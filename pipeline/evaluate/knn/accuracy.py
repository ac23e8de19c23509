"""Nearest neighbour: the class of the most similar training image (CompRess, section 4.1).

Exact, k = 1, cosine similarity of the features of the evaluation view. With few labels, a number of training images of
each class is drawn as labelled, several times. A test image whose class no training image has counts as wrong.

Letters: N training images, M test images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.rng import philox
from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.evaluate.knn.search import nearest_neighbours

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    import torch

    from compress_ssl.pipeline.evaluate.features import Features
    from compress_ssl.pipeline.evaluate.knn.search import Neighbours


class NearestNeighbourResult(Settings):
    """Top-1 accuracy, in percent."""

    top1_percent: float
    """Mean over the draws."""
    labels_per_class: int | None
    """Labelled training images of each class; None where all are labelled."""
    draws: tuple[float, ...]
    """Top-1 of each draw of labelled images; a single value where all are labelled."""
    train_images: int
    test_images: int


def nearest_neighbour_accuracy(
    found: Neighbours, train_labels: npt.NDArray[np.integer], test_labels: npt.NDArray[np.integer]
) -> NearestNeighbourResult:
    """Score features by their nearest neighbour among all training images.

    Parameters
    ----------
    found : Neighbours
        Of the M test images among the N training images; only the nearest is used.
    train_labels, test_labels : int arrays of shape (N,) and (M,)
    """
    accuracy = _top1_percent(found, train_labels, test_labels)
    return NearestNeighbourResult(
        top1_percent=accuracy,
        labels_per_class=None,
        draws=(accuracy,),
        train_images=len(train_labels),
        test_images=len(test_labels),
    )


def few_labels_accuracy(
    train_features: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.floating]],
    train_labels: npt.NDArray[np.integer],
    test: Features,
    labels_per_class: int,
    *,
    draws: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> NearestNeighbourResult:
    """Score features by their nearest neighbour among a few labelled training images.

    Parameters
    ----------
    train_features : callable
        Returns the features (R, D) of R rows of the training images; called once, for all rows drawn.
    train_labels : int array of shape (N,)
    test : Features
    labels_per_class : int
        Labelled training images of each class.
    draws : int
        Number of draws.
    seed : int
        Of the draws: with the same seed networks are compared on the same images.

    Raises
    ------
    InputError
        If a class has too few training images.
    """
    drawn = [_balanced_rows(train_labels, labels_per_class, seed, draw) for draw in range(draws)]
    rows_drawn, inverse = np.unique(np.stack(drawn), return_inverse=True)
    features = train_features(rows_drawn)
    accuracies = []
    for rows, positions in zip(drawn, inverse.reshape(draws, -1), strict=True):
        found = nearest_neighbours(features[positions], test.features, 1, devices=[device])
        accuracies.append(_top1_percent(found, train_labels[rows], test.labels))
    return NearestNeighbourResult(
        top1_percent=float(np.mean(accuracies)),
        labels_per_class=labels_per_class,
        draws=tuple(accuracies),
        train_images=len(train_labels),
        test_images=len(test.labels),
    )


def _top1_percent(
    found: Neighbours, train_labels: npt.NDArray[np.integer], test_labels: npt.NDArray[np.integer]
) -> float:
    return 100 * int(np.count_nonzero(train_labels[found.row[:, 0]] == test_labels)) / len(test_labels)


def _balanced_rows(labels: npt.NDArray[np.integer], per_class: int, seed: int, draw: int) -> npt.NDArray[np.int64]:
    """Draw ``per_class`` rows of each class, sorted; the same for the same seed and draw."""
    generator = philox(seed, draw)
    chosen = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < per_class:
            raise InputError(
                f"Class {label} has {len(rows)} training images, fewer than the {per_class} labels per class; lower "
                "--labels-per-class."
            )
        chosen.append(generator.choice(rows, per_class, replace=False))
    return np.sort(np.concatenate(chosen))
