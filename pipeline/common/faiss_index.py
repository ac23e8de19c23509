"""faiss's index for exact search, on the GPU of a stage if faiss can use it, else on the CPU."""

from typing import Any

import faiss
import torch

TEMPORARY_BYTES = 256 * 2**20  # that faiss reserves on a GPU, outside torch's allocator; by default 1.5 GiB
MAX_GPU_NEIGHBOURS = 2048  # GPU_MAX_SELECTION_K in faiss/gpu/utils/DeviceDefs.cuh


def faiss_uses(device: torch.device) -> bool:
    """Return True for a GPU that faiss can compute on: it was built for GPUs, and sees this one as torch does."""
    return (
        device.type == "cuda" and hasattr(faiss, "StandardGpuResources") and (device.index or 0) < faiss.get_num_gpus()
    )


def flat_index(dim: int, metric: int, device: torch.device, neighbours: int = 1) -> Any:
    """Return an empty index of float32 vectors (., D), for one thread, that is searched exactly.

    Memory that torch has cached on the GPU is freed first, because faiss aborts the process where cuBLAS finds none.

    Args:
        dim: D.
        metric: ``faiss.METRIC_L2`` or ``faiss.METRIC_INNER_PRODUCT``, in full float32 on every device.
        neighbours: Most neighbours of a search; above ``MAX_GPU_NEIGHBOURS`` the index is on the CPU.
    """
    if not faiss_uses(device) or neighbours > MAX_GPU_NEIGHBOURS:
        faiss.omp_set_num_threads(torch.get_num_threads())
        return faiss.IndexFlat(dim, metric)
    torch.cuda.empty_cache()
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(TEMPORARY_BYTES)
    options = faiss.GpuIndexFlatConfig()
    options.device = device.index or 0
    return faiss.GpuIndexFlat(resources, dim, metric, options)
