"""One-to-one mapping of clusters to classes, and the scores of a clustering.

Letters: N training images, M test images, K clusters, C classes.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from compress_ssl.pipeline.common.settings import Settings

Integers = npt.NDArray[np.integer]

NO_CLASS = -1


class Clustering(NamedTuple):
    """The cluster of each image."""

    train: npt.NDArray[np.int64]  # (N,)
    test: npt.NDArray[np.int64]  # (M,)


class ClusteringResult(Settings):
    """Scores of one clustering."""

    seed: int
    top1_percent: float  # of the test images
    train_top1_percent: float
    nmi_percent: float
    """Normalised mutual information of the test images' clusters and classes (arithmetic mean), times 100."""
    ari_percent: float  # adjusted Rand index of the same, times 100
    empty_clusters: int  # without a training image


def score_clustering(
    clustering: Clustering, train_labels: Integers, test_labels: Integers, clusters: int, seed: int
) -> ClusteringResult:
    """Score a clustering into K = ``clusters``, given the classes (N,) and (M,) of the images.

    ``seed``, which the clustering was computed with, is only recorded.
    """
    classes = align_clusters(clustering.train, train_labels, clusters)
    train, test = classes[clustering.train], classes[clustering.test]
    return ClusteringResult(
        seed=seed,
        top1_percent=100 * float(np.mean(test == test_labels)),
        train_top1_percent=100 * float(np.mean(train == train_labels)),
        nmi_percent=100 * float(normalized_mutual_info_score(test_labels, clustering.test)),
        ari_percent=100 * float(adjusted_rand_score(test_labels, clustering.test)),
        empty_clusters=clusters - len(np.unique(clustering.train)),
    )


def align_clusters(cluster: Integers, labels: Integers, clusters: int) -> npt.NDArray[np.int64]:
    """Map clusters to classes one to one, maximising the sum of (images in common / images of the cluster).

    Args:
        cluster, labels (int arrays of shape (N,)): Cluster and class of each training image.
        clusters: K.

    Returns:
        classes (int array of shape (K,)): Class of each cluster, ``NO_CLASS`` where there are more clusters than
            classes.
    """
    known, column = np.unique(labels, return_inverse=True)
    common = np.zeros((clusters, len(known)))  # (K, C)
    np.add.at(common, (cluster, column), 1)
    share = common / np.maximum(common.sum(axis=1, keepdims=True), 1)
    rows, columns = linear_sum_assignment(share, maximize=True)
    classes = np.full(clusters, NO_CLASS, np.int64)
    classes[rows] = known[columns]
    return classes
