"""Accuracy of nearest neighbours (CompRess, section 4.1) and of weighted k-NN.

Nearest neighbour: exact, k = 1, cosine similarity of the features of the evaluation view. With few labels, a number of
training images of each class is drawn as labelled, several times. A test image whose class no training image has counts
as wrong.

Weighted k-NN: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4:
neighbour i votes for its class with weight exp(cos_i / T); the class with the largest sum is predicted. T is 0.07 and k
is 200 there; MoCo and DINO (k of 10 to 200) use the same rule.

Letters: N training images, M test images, D features, k neighbours, C classes, B rows of a block.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.rng import philox
from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.evaluate.features import Features
from compress_ssl.pipeline.evaluate.knn.search import Neighbours, nearest_neighbours

Integers = npt.NDArray[np.integer]
"""Class numbers; the labels of the training images are (N,), those of the test images (M,)."""

VOTES_BYTES = 2**26
"""Maximum size of the votes of a block of test images; those of all images could exceed the features."""


class NearestNeighbourResult(Settings):
    """Top-1 accuracy of nearest neighbours, in percent."""

    top1_percent: float  # mean over the draws
    labels_per_class: int | None  # labelled training images of each class; None where all are labelled
    draws: tuple[float, ...]  # Top-1 of each draw of labelled images; a single value where all are labelled
    train_images: int
    test_images: int


class WeightedKnnResult(Settings):
    """Top-1 accuracy of weighted k-NN, in percent."""

    top1_percent: float
    neighbours: int  # training images that vote
    temperature: float
    train_images: int
    test_images: int


def nearest_neighbour_accuracy(
    found: Neighbours, train_labels: Integers, test_labels: Integers
) -> NearestNeighbourResult:
    """Score the nearest neighbours, found among all N training images, of the M test images."""
    accuracy = _top1_percent(train_labels[found.row[:, 0]], test_labels)
    return NearestNeighbourResult(
        top1_percent=accuracy,
        labels_per_class=None,
        draws=(accuracy,),
        train_images=len(train_labels),
        test_images=len(test_labels),
    )


def few_labels_accuracy(
    train_features: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.floating]],
    train_labels: Integers,
    test: Features,
    labels_per_class: int,
    *,
    draws: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> NearestNeighbourResult:
    """Search for nearest neighbours among a few labelled training images, and score them.

    Args:
        train_features: Returns the features (R, D) of R rows of the training images; called once, for all rows drawn.
        labels_per_class: Labelled training images of each class.
        draws: Number of draws.
        seed: Of the draws: with the same seed networks are compared on the same images.

    Raises:
        InputError: If a class has too few training images.
    """
    drawn = [_balanced_rows(train_labels, labels_per_class, seed, draw) for draw in range(draws)]
    rows_drawn, inverse = np.unique(np.stack(drawn), return_inverse=True)
    features = train_features(rows_drawn)
    accuracies = []
    for rows, positions in zip(drawn, inverse.reshape(draws, -1), strict=True):
        found = nearest_neighbours(features[positions], test.features, 1, device=device)
        accuracies.append(_top1_percent(train_labels[rows][found.row[:, 0]], test.labels))
    return NearestNeighbourResult(
        top1_percent=float(np.mean(accuracies)),
        labels_per_class=labels_per_class,
        draws=tuple(accuracies),
        train_images=len(train_labels),
        test_images=len(test.labels),
    )


def weighted_knn_accuracy(
    found: Neighbours, train_labels: Integers, test_labels: Integers, *, neighbours: int, temperature: float
) -> WeightedKnnResult:
    """Score the weighted vote of the first ``neighbours`` of those found for each test image."""
    predicted = weighted_vote(found.similarity[:, :neighbours], train_labels[found.row[:, :neighbours]], temperature)
    return WeightedKnnResult(
        top1_percent=_top1_percent(predicted, test_labels),
        neighbours=neighbours,
        temperature=temperature,
        train_images=len(train_labels),
        test_images=len(test_labels),
    )


def weighted_vote(
    similarity: npt.NDArray[np.floating], labels: Integers, temperature: float, *, votes_bytes: int = VOTES_BYTES
) -> Integers:
    """Return the classes (M,) that win the vote; the smallest of tied ones.

    Args:
        similarity (float array of shape (M, k)): Cosines of the neighbours, largest first.
        labels (int array of shape (M, k)): Their classes.
        votes_bytes: Maximum size of the votes of one block, in bytes.
    """
    classes, number = np.unique(labels, return_inverse=True)
    number = number.reshape(labels.shape)
    # In float64 and relative to the nearest one: exp(cos / T) overflows at a small T, and only ratios matter.
    nearest = similarity[:, :1].astype(np.float64)
    winner = np.empty(len(labels), np.int64)
    block = max(1, votes_bytes // (8 * len(classes)))
    for start in range(0, len(labels), block):
        here = slice(start, start + block)
        weight = np.exp((similarity[here] - nearest[here]) / temperature)  # (B, k)
        query = np.arange(len(weight))[:, None]
        cell = (query * len(classes) + number[here]).ravel()
        votes = np.bincount(cell, weight.ravel(), len(weight) * len(classes)).reshape(-1, len(classes))
        winner[here] = votes.argmax(axis=1)
    predicted: Integers = classes[winner]
    return predicted


def _top1_percent(predicted: Integers, labels: Integers) -> float:
    return 100 * int(np.count_nonzero(predicted == labels)) / len(labels)


def _balanced_rows(labels: Integers, per_class: int, seed: int, draw: int) -> npt.NDArray[np.int64]:
    """Draw ``per_class`` rows of each class, sorted; the same for the same seed and draw."""
    generator = philox(seed, draw)
    drawn = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < per_class:
            raise InputError(
                f"Class {label} has {len(rows)} training images, fewer than the {per_class} labels per class; lower "
                "--labels-per-class."
            )
        drawn.append(generator.choice(rows, per_class, replace=False))
    return np.sort(np.concatenate(drawn))
