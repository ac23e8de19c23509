"""Full memory is told from other faults by the type of the error or the words of the libraries, not by any image's."""

import mmap
import signal
from collections.abc import Callable

import faiss
import numpy as np
import pytest
import torch

from compress_ssl.pipeline.common.errors import InputError, RunError, Stopped
from compress_ssl.pipeline.common.torch_errors import OutOfMemory, explain_out_of_memory, is_out_of_memory

PETABYTE = 2**50


def zeros_in_faiss(count: int) -> object:
    return faiss.Float32Vector().resize(count)


@pytest.mark.parametrize(
    "fill",
    [
        lambda: torch.empty(PETABYTE),
        lambda: torch.empty(2**62, 2**62),
        lambda: torch.zeros(2**25, 1).expand(2**25, 2**25).clone(),
        lambda: np.empty(PETABYTE),
        lambda: bytes(PETABYTE),
        lambda: mmap.mmap(-1, PETABYTE),
        lambda: zeros_in_faiss(PETABYTE),
    ],
    ids=["torch", "torch's size", "torch's copy", "numpy", "python", "mmap", "faiss"],
)
def test_memory_that_this_machine_lacks_is_recognised(fill: Callable[[], object]) -> None:
    with pytest.raises(OutOfMemory, match=r"^take less\.$"), explain_out_of_memory("take less."):
        fill()


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",  # torch's c10/cuda
        "CUDA driver error: out of memory",
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB.",
        "Triton Error [CUDA]: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'",
        # faiss/gpu/StandardGpuResources.cpp at 1.15
        "alloc fail type TemporaryMemoryBuffer dev 0 space Device size 16 bytes (cudaMalloc error out of memory [2])",
        # DALI 2.4: include/dali/core/cuda_error.h
        "Error in mixed operator `fn.decoders.image`, encountered:\n\nCUDA allocation failed\nCurrent pipeline",
        "CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory",
        "Can't allocate 123 bytes on device 0.",
        "Multiple exceptions:\nN4dali12CUDABadAllocE: CUDA allocation failed\nSt9bad_alloc: std::bad_alloc",
        "failed to cudaHostAlloc 268435456 bytes for CPU <-> GPU async copy buffer (error 2 out of memory)",
    ],
)
def test_words_of_a_full_gpu_are_recognised(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))


def test_full_memory_is_recognised_by_torchs_type() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("Allocation on device 0 would exceed allowed memory."))


@pytest.mark.parametrize(
    "error",
    [
        RunError("DALI failed on one of these images: 'cuda/out of memory.jpg' (not a JPEG); leave it out."),
        Stopped("distill cuda out of memory: stopped by SIGTERM and saved at epoch 1, step 0.", signal.SIGTERM),
        InputError("The image 'cannot allocate memory.png' is damaged; leave it out."),
        FileNotFoundError(2, "No such file or directory", "out of memory.jpg"),
        RuntimeError("Error in thread 0: Failed to open 'pictures of memory/out of memory.jpg'"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
    ],
)
def test_other_faults_keep_their_own_words(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, explain_out_of_memory("take less."):
        raise error
    assert raised.value is error


def test_the_innermost_sentence_is_kept() -> None:
    with (
        pytest.raises(OutOfMemory, match=r"^inner\.$"),
        explain_out_of_memory("outer."),
        explain_out_of_memory("inner."),
    ):
        raise MemoryError
