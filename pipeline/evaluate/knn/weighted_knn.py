"""Weighted k-NN: the k most similar training images vote, weighted by their similarity.

Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4: neighbour i
votes for its class with weight exp(cos_i / T); the class with the largest sum is predicted. T is 0.07 and k is 200
there; MoCo and DINO (k of 10 to 200) use the same rule.

Letters: N training images, M test images, k neighbours, C classes, B rows of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compress_ssl.pipeline.common.settings import Settings

if TYPE_CHECKING:
    import numpy.typing as npt

    from compress_ssl.pipeline.evaluate.knn.search import Neighbours

VOTES_BYTES = 2**26
"""Maximum size of the votes of a block of test images; those of all images could exceed the features."""


class WeightedKnnResult(Settings):
    """Top-1 accuracy of the vote, in percent."""

    top1_percent: float
    neighbours: int
    """Training images that vote."""
    temperature: float
    train_images: int
    test_images: int


def weighted_knn_accuracy(
    found: Neighbours,
    train_labels: npt.NDArray[np.integer],
    test_labels: npt.NDArray[np.integer],
    *,
    neighbours: int,
    temperature: float,
) -> WeightedKnnResult:
    """Score features by the weighted vote of the nearest neighbours.

    Parameters
    ----------
    found : Neighbours
        Of the M test images among the N training images; the first ``neighbours`` of each vote.
    train_labels, test_labels : int arrays of shape (N,) and (M,)
    neighbours : int
        At most as many as were found.
    temperature : float
        Divides the cosines.
    """
    predicted = weighted_vote(found.similarity[:, :neighbours], train_labels[found.row[:, :neighbours]], temperature)
    return WeightedKnnResult(
        top1_percent=100 * int(np.count_nonzero(predicted == test_labels)) / len(test_labels),
        neighbours=neighbours,
        temperature=temperature,
        train_images=len(train_labels),
        test_images=len(test_labels),
    )


def weighted_vote(
    similarity: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    temperature: float,
    *,
    votes_bytes: int = VOTES_BYTES,
) -> npt.NDArray[np.integer]:
    """Return the classes (M,) that win the vote; the smallest of tied ones.

    Parameters
    ----------
    similarity : float array of shape (M, k)
        Cosines of the neighbours, largest first.
    labels : int array of shape (M, k)
        Their classes.
    temperature : float
    votes_bytes : int
        Maximum size of the votes of one block, in bytes.
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
    chosen: npt.NDArray[np.integer] = classes[winner]
    return chosen
