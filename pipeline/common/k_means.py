"""k-means by faiss: clusters to evaluate, pseudo-labels to distil, anchors."""

from typing import NamedTuple

import faiss
import torch
from torch import Tensor

from compress_ssl.pipeline.common.faiss_index import flat_index

ITERATIONS = 20  # of Lloyd's algorithm, as in UMBCvision/CompRess, kmeans.py at f6d5a1ff4064


class Clusters(NamedTuple):
    """K clusters of N embeddings of D features."""

    centroids: Tensor  # (K, D) float32
    nearest: Tensor  # (N,) int64, each embedding's cluster


def k_means(
    embeddings: Tensor,
    clusters: int,
    seed: int,
    device: torch.device,
    *,
    iterations: int = ITERATIONS,
    restarts: int = 1,
) -> Clusters:
    """Cluster embeddings by Euclidean distance, on the GPU if faiss can use it.

    Args:
        embeddings (float32 tensor of shape (N, D)): All of them are used; faiss would draw 256 per cluster.
        clusters: K, at most N.
        seed: Draws the initial centroids.
        iterations: Of Lloyd's algorithm.
        restarts: Number of runs, of which the one with the smallest distances is kept (faiss's ``nredo``).
    """
    rows = embeddings.cpu().numpy()
    clustering = faiss.Clustering(rows.shape[1], clusters)
    clustering.niter, clustering.nredo, clustering.seed = iterations, restarts, seed % 2**31
    clustering.max_points_per_centroid = len(rows)  # no subsampling
    clustering.min_points_per_centroid = 1  # no warning
    clustering.train(rows, flat_index(rows.shape[1], faiss.METRIC_L2, device))
    centroids = torch.from_numpy(faiss.vector_float_to_array(clustering.centroids).reshape(clusters, -1))
    return Clusters(centroids, nearest_centroids(embeddings, centroids, device))


def nearest_centroids(embeddings: Tensor, centroids: Tensor, device: torch.device) -> Tensor:
    """Return the index (N,) int64 of the centroid (K, D) nearest to each embedding (N, D)."""
    index = flat_index(centroids.shape[1], faiss.METRIC_L2, device)
    index.add(centroids.cpu().numpy())
    return torch.from_numpy(index.search(embeddings.cpu().numpy(), 1)[1][:, 0])
