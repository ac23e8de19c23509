"""Nearest neighbour: the class of the most similar training image (CompRess, section 4.1).

Exact, k = 1, cosine similarity of the features of the evaluation view. With few labels only so many training images of
each class are labelled, drawn several times. Whatever its class, a test image gets one of the training images: of a class that
they do not have it counts as wrong.

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
    """Labelled training images of each class; all of them where it is None."""
    draws: tuple[float, ...]
    """Top-1 of each draw of labelled images; one where all are labelled."""
    train_images: int
    test_images: int


def nearest_neighbour_accuracy(
    found: Neighbours, train_labels: npt.NDArray[np.integer], test_labels: npt.NDArray[np.integer]
) -> NearestNeighbourResult:
    """Evaluate features by their nearest neighbour among all training images.

    Parameters
    ----------
    found : Neighbours
        Of the M test images among the N training images; the first of each counts.
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
    """Evaluate features by their nearest neighbour among a few labelled training images.

    Parameters
    ----------
    train_features : callable
        Gives the features (R, D) of R rows of the training images; asked once, for those that are drawn.
    train_labels : int array of shape (N,)
    test : Features
    labels_per_class : int
        How many training images of each class are labelled.
    draws : int
        How often to draw them.
    seed : int
        Draws them; the same for every network, so that networks are compared on the same images.

    Raises
    ------
    InputError
        If a class has too few training images.
    """
    drawn = [_balanced_rows(train_labels, labels_per_class, seed, draw) for draw in range(draws)]
    wanted, place = np.unique(np.stack(drawn), return_inverse=True)
    features = train_features(wanted)
    accuracies = []
    for rows, places in zip(drawn, place.reshape(draws, -1), strict=True):
        found = nearest_neighbours(features[places], test.features, 1, devices=[device])
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
    """So many rows of each class, in order; the same for the same seed and draw."""
    generator = philox(seed, draw)
    chosen = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < per_class:
            raise InputError(
                f"Class {label} has {len(rows)} training images, fewer than the {per_class} labels a class asked for; "
                "ask for fewer."
            )
        chosen.append(generator.choice(rows, per_class, replace=False))
    return np.sort(np.concatenate(chosen))
