"""Nearest neighbours among one set of embeddings, by faiss: bags to distil."""

import faiss
import torch
from torch import Tensor

from compress_ssl.pipeline.common.faiss_index import flat_index


def nearest_others(embeddings: Tensor, count: int, device: torch.device) -> Tensor:
    """Find the nearest neighbours of each embedding by cosine, itself left out; exact.

    Args:
        embeddings (float32 tensor of shape (N, D)): L2-normalised; N is more than ``count``.
        device: Searched on it if it is a GPU that faiss can use.

    Returns:
        nearest (int64 tensor of shape (N, count)): Indices, nearest first; on the CPU.
    """
    vectors = embeddings.cpu().numpy()
    index = flat_index(vectors.shape[1], faiss.METRIC_INNER_PRODUCT, device, count + 1)
    index.add(vectors)
    found = torch.from_numpy(index.search(vectors, count + 1)[1])
    left_out = found == torch.arange(len(found))[:, None]
    left_out[:, -1] |= ~left_out.any(dim=1)  # an embedding with many duplicates may not be found itself
    return found[~left_out].reshape(len(found), count)
