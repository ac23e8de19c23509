"""One-to-one mapping of clusters to classes.

Letters: N training images, M test images, K clusters, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

if TYPE_CHECKING:
    import numpy.typing as npt

    Integers = npt.NDArray[np.integer]

NO_CLASS = -1


class Clustering(NamedTuple):
    """Which cluster each image is in."""

    train: npt.NDArray[np.int64]
    """(N,)"""
    test: npt.NDArray[np.int64]
    """(M,)"""


def align_clusters(cluster: Integers, labels: Integers, clusters: int) -> npt.NDArray[np.int64]:
    """Map clusters to classes one to one, so that the shares of their images that are of their class sum to the most.

    Parameters
    ----------
    cluster, labels : int arrays of shape (N,)
        Cluster and class of each training image.
    clusters : int
        K.

    Returns
    -------
    classes : int array of shape (K,)
        Class of each cluster, ``NO_CLASS`` where there are more clusters than classes.
    """
    known, column = np.unique(labels, return_inverse=True)
    common = np.zeros((clusters, len(known)))  # (K, C)
    np.add.at(common, (cluster, column), 1)
    share = common / np.maximum(common.sum(axis=1, keepdims=True), 1)
    rows, columns = linear_sum_assignment(share, maximize=True)
    classes = np.full(clusters, NO_CLASS, np.int64)
    classes[rows] = known[columns]
    return classes
