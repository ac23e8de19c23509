"""k-means on the teacher's embeddings: pseudo-labels, or anchors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import faiss
import torch

if TYPE_CHECKING:
    from torch import Tensor

ITERATIONS = 20
"""Of Lloyd's algorithm, as in UMBCvision/CompRess, kmeans.py at f6d5a1ff4064."""


class Clusters(NamedTuple):
    """C clusters of N embeddings of D features."""

    centroids: Tensor
    """(C, D) float32."""
    nearest: Tensor
    """(N,) int64, each embedding's cluster."""


def k_means(embeddings: Tensor, clusters: int, seed: int, device: torch.device) -> Clusters:
    """Cluster embeddings (N, D) by Euclidean distance, all of them, by faiss; on the GPU if faiss has been built for it."""
    rows = embeddings.cpu().numpy()
    clustering = faiss.Clustering(rows.shape[1], clusters)
    clustering.niter, clustering.seed = ITERATIONS, seed % 2**31
    clustering.max_points_per_centroid = len(rows)  # no subsampling
    clustering.min_points_per_centroid = 1  # no warning
    index = _flat_index(rows.shape[1], device)
    clustering.train(rows, index)  # leaves the centroids in the index
    centroids = faiss.vector_float_to_array(clustering.centroids).reshape(clusters, -1)
    return Clusters(torch.from_numpy(centroids), torch.from_numpy(index.search(rows, 1)[1][:, 0]))


def _flat_index(dim: int, device: torch.device) -> Any:
    if device.type == "cuda" and hasattr(faiss, "StandardGpuResources"):
        options = faiss.GpuIndexFlatConfig()
        options.device = device.index or 0
        return faiss.GpuIndexFlatL2(faiss.StandardGpuResources(), dim, options)
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss.IndexFlatL2(dim)
