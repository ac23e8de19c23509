"""Cluster alignment, CA: agreement of clusters of the features with the classes (CompRess, section 4.1).

The L2-normalised features of the training images' view 0 are clustered by faiss's k-means, with as many clusters as
classes, 20 iterations and no subsampling; clusters are mapped to classes one to one by the Hungarian algorithm, on
(images in common / cluster's size) of the training images; a test image is given the class of its nearest centroid.
This is the protocol of UMBCvision/CompRess, eval_cluster_alignment.py at 30a821b62cac, which leaves faiss's seed at
1234 and clusters once (there the products are in float16, on GPUs; here they are in float32).

With more clusters than classes each class still has one cluster, and images of the other clusters count as wrong; with
fewer, some classes are never predicted (the published code has 1000 of both). A cluster without images has nothing in
common with any class; the published code would divide by zero. A class without training images is never predicted.

Normalised mutual information and the adjusted Rand index of the test images, which need no mapping, are reported too.

Letters: N training images, M test images, D features, K clusters.
"""

import logging

import numpy as np
import torch

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.k_means import k_means, nearest_centroids
from compress_ssl.pipeline.common.memory import available_memory, format_bytes
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.settings import Settings
from compress_ssl.pipeline.evaluate.cluster.alignment import Clustering, ClusteringResult, score_clustering
from compress_ssl.pipeline.evaluate.feature_source import FeatureSource
from compress_ssl.pipeline.evaluate.settings import ClusterSettings

logger = logging.getLogger(__name__)


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
        """Return percentages by column heading."""
        return {"CA": self.top1_percent, "NMI": self.nmi_percent, "ARI": self.ari_percent}


def evaluate_cluster(settings: ClusterSettings, source: FeatureSource, progress: Progress) -> ClusterResult:
    """Cluster once per seed; draw pictures of the first seed's clustering if asked for.

    Raises:
        InputError: If an image has no label, a feature is not finite, there is one class, there are fewer images than
            clusters, or the features do not fit in memory.
    """
    store = source.features()
    train_split, test_split = store[settings.train_split], store[settings.test_split]
    train, test = source.read("training", train_split), source.read("test", test_split)
    classes = np.unique(train.labels)
    if len(classes) < 2:
        raise InputError(
            f"All training images are of one class ('{train_split.class_names[classes[0]]}'); cluster alignment needs "
            "two or more."
        )
    count = settings.clusters or len(classes)
    if count > len(train.labels):
        raise InputError(
            f"There are {len(train.labels)} training images, fewer than the {count} clusters; lower --clusters."
        )
    check_memory(len(train.labels) + len(test.labels), train.dim, available_memory())
    rows, queries = (torch.from_numpy(images.in_memory(normalised=True).features) for images in (train, test))
    clusterings, results = [], []
    with progress.track("k-means", len(settings.seeds), "clusterings") as advance:
        for seed in settings.seeds:
            found = k_means(
                rows, count, seed, source.device, iterations=settings.iterations, restarts=settings.restarts
            )
            nearest = nearest_centroids(queries, found.centroids, source.device)
            clusterings.append(Clustering(found.nearest.numpy(), nearest.numpy()))
            results.append(score_clustering(clusterings[-1], train.labels, test.labels, count, seed))
            advance(1)
    if settings.pictures:
        from compress_ssl.pipeline.evaluate.cluster.pictures import draw_pictures

        draw_pictures(settings, source, train_split, test_split, clusterings[0], count)
    return ClusterResult(
        top1_percent=float(np.mean([result.top1_percent for result in results])),
        nmi_percent=float(np.mean([result.nmi_percent for result in results])),
        ari_percent=float(np.mean([result.ari_percent for result in results])),
        clusterings=tuple(results),
        clusters=count,
        classes=len(classes),
        train_images=len(train.labels),
        test_images=len(test.labels),
    )


def check_memory(images: int, features: int, available: float) -> None:
    """Log the memory that k-means needs, and check that it is available: ImageNet with 8,192 features needs 41 GiB.

    Raises:
        InputError: If it is more than the available bytes.
    """
    needed = 4 * images * features
    what = f"{images:,} images of {features:,} features in float32, {format_bytes(needed)}"
    if needed > available:
        raise InputError(
            f"k-means keeps all features in memory, {what}, and {format_bytes(available)} are available; use a machine "
            "with more, or fewer images (--limit) of the network itself."
        )
    logger.info("k-means keeps all features in memory: %s.", what)
