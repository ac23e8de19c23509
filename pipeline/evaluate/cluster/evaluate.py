"""Cluster alignment, CA: how well clusters of the features agree with the classes (CompRess, section 4.1).

The L2-normalised features of the training images' view 0 are clustered by faiss's k-means, with as many clusters as
classes, 20 iterations and no subsampling; clusters are mapped to classes one to one, by the Hungarian algorithm on
(images in common / cluster's size) of the training images; a test image gets the class of its nearest centroid. It is the
protocol of UMBCvision/CompRess, eval_cluster_alignment.py at 30a821b62cac, which left faiss's seed at 1234 and clustered
once (there the products were in float16, on GPUs; here they are in float32).

With more clusters than classes each class still gets one cluster, and the images of the others count as wrong; with
fewer, some classes are never answered (the published code has 1000 of both). A cluster without images shares nothing
with any class; the published code would divide by zero. A class that no training image has is never answered either.

Beside it normalised mutual information and the adjusted Rand index of the test images, which need no mapping.

Letters: N training images, M test images, D features, K clusters, C classes.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.memory import available_memory, format_bytes
from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.evaluate.cluster.alignment import Clustering, align_clusters
from compress_ssl.pipeline.evaluate.features import StoredFeatures

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.evaluate.feature_source import FeatureSource
    from compress_ssl.pipeline.evaluate.settings import ClusterSettings

    Integers = npt.NDArray[np.integer]

BYTES = 4
"""Of a feature: faiss's k-means takes float32, and all images at once."""

logger = logging.getLogger(__name__)


class ClusteringResult(Settings):
    """What one clustering gives."""

    seed: int
    top1_percent: float
    """Of the test images."""
    train_top1_percent: float
    nmi_percent: float
    """Normalised mutual information of the test images' clusters and classes (arithmetic mean), times 100."""
    ari_percent: float
    """Adjusted Rand index of the same, times 100."""
    empty_clusters: int
    """Without a training image."""


class ClusterResult(Settings):
    """Means over the seeds, and each seed's values."""

    top1_percent: float
    nmi_percent: float
    ari_percent: float
    clusterings: tuple[ClusteringResult, ...]
    clusters: int
    classes: int
    train_images: int
    test_images: int

    def scores(self) -> dict[str, float]:
        """In percent, by the heading of its column."""
        return {"CA": self.top1_percent, "NMI": self.nmi_percent, "ARI": self.ari_percent}


def evaluate_cluster(settings: ClusterSettings, subject: FeatureSource, progress: Progress) -> ClusterResult:
    """Cluster with each seed, and draw the first seed's pictures if they are asked for.

    Raises
    ------
    InputError
        If an image has no label, a feature is not a number, there is one class, there are fewer images than clusters, or
        the memory does not hold the features.
    """
    store = subject.features()
    splits = store[settings.train_split], store[settings.test_split]
    train, test = StoredFeatures("training", splits[0]), StoredFeatures("test", splits[1])
    count = _cluster_count(settings, train.labels, splits[0].class_names)
    check_memory(len(train.labels) + len(test.labels), splits[0].feature_dim, available_memory())
    bank, queries = (_normalised(images, splits[0].feature_dim) for images in (train, test))
    how: dict[str, Any] = {
        "iterations": settings.iterations,
        "restarts": settings.restarts,
        "device": subject.device,
    }
    clusterings = []
    with progress.track("k-means", len(settings.seeds), "clusterings") as advance:
        for seed in settings.seeds:
            clusterings.append(k_means(bank, queries, count, seed=seed, **how))
            advance(1)
    if settings.pictures:
        from compress_ssl.pipeline.evaluate.cluster.pictures import draw_pictures

        draw_pictures(settings, subject, splits, clusterings[0], count)
    results = [
        clustering_result(clustering, train.labels, test.labels, count, seed)
        for clustering, seed in zip(clusterings, settings.seeds, strict=True)
    ]
    return ClusterResult(
        top1_percent=float(np.mean([result.top1_percent for result in results])),
        nmi_percent=float(np.mean([result.nmi_percent for result in results])),
        ari_percent=float(np.mean([result.ari_percent for result in results])),
        clusterings=tuple(results),
        clusters=count,
        classes=len(np.unique(train.labels)),
        train_images=len(train.labels),
        test_images=len(test.labels),
    )


def k_means(
    train: npt.NDArray[np.float32],
    test: npt.NDArray[np.float32],
    clusters: int,
    *,
    iterations: int = 20,
    restarts: int = 1,
    seed: int = 1234,
    device: torch.device | str = "cpu",
) -> Clustering:
    """Cluster the training images by Euclidean distance, and find the nearest centroid of all images.

    Parameters
    ----------
    train, test : float32 arrays of shape (N, D) and (M, D)
        All of ``train`` is used, however many they are.
    clusters : int
        K, at most N.
    iterations : int
        Of Lloyd's algorithm.
    restarts : int
        How often to begin anew; the clustering with the least distances is kept (faiss's ``nredo``).
    seed : int
        Draws the first centroids.
    """
    clustering = faiss.Clustering(train.shape[1], clusters)
    clustering.niter, clustering.nredo, clustering.seed = iterations, restarts, seed
    clustering.max_points_per_centroid = len(train)  # no subsampling
    clustering.min_points_per_centroid = 1  # no warning
    index = _flat_index(train.shape[1], torch.device(device))
    clustering.train(train, index)  # leaves the centroids in the index
    found = (index.search(rows, 1)[1][:, 0] for rows in (train, test))
    return Clustering(*found)


def clustering_result(
    clustering: Clustering, train_labels: Integers, test_labels: Integers, clusters: int, seed: int
) -> ClusteringResult:
    """Score a clustering.

    Parameters
    ----------
    clustering : Clustering
    train_labels, test_labels : int arrays of shape (N,) and (M,)
    clusters : int
        K.
    seed : int
        That it is of.
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


def _cluster_count(settings: ClusterSettings, labels: Integers, class_names: Sequence[str]) -> int:
    classes = np.unique(labels)
    if len(classes) < 2:
        raise InputError(
            f"All training images are of one class ('{class_names[classes[0]]}'); cluster alignment needs two or more."
        )
    count = settings.clusters or len(classes)
    if count > len(labels):
        raise InputError(
            f"There are {len(labels)} training images, fewer than the {count} clusters; ask for fewer by --clusters."
        )
    return count


def check_memory(images: int, features: int, available: float) -> None:
    """Say what k-means holds in memory, and check that it may: ImageNet's 8,192 features are 41 GiB.

    Raises
    ------
    InputError
        If it is more than the available bytes.
    """
    needed = BYTES * images * features
    what = f"{images:,} images of {features:,} features in float32, {format_bytes(needed)}"
    if needed > available:
        raise InputError(
            f"k-means holds all images in memory, {what}, and {format_bytes(available)} are left; take a machine with more, or "
            "fewer images (--limit) of the network itself."
        )
    logger.info("k-means holds all images in memory: %s.", what)


def _flat_index(features: int, device: torch.device) -> Any:
    if device.type == "cuda":
        options = faiss.GpuIndexFlatConfig()
        options.device = device.index or 0
        return faiss.GpuIndexFlatL2(faiss.StandardGpuResources(), features, options)
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss.IndexFlatL2(features)


def _normalised(images: StoredFeatures, features: int) -> npt.NDArray[np.float32]:
    """All rows (N, D) at unit length; a row of zeros stays so."""
    rows = np.empty((len(images.labels), features), np.float32)
    start = 0
    for block in images.blocks():
        here = rows[start : start + len(block)]
        here[:] = block
        here /= np.maximum(np.linalg.norm(here, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        start += len(block)
    return rows
