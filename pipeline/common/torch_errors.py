"""Errors of torch and of what runs beside it in one sentence: the first line, and what to change if memory ran out."""

import contextlib
import errno
import re
from collections.abc import Iterator

from compress_ssl.pipeline.common.errors import RunError

FULL_MEMORY = re.compile(
    r"can(?:'t|not) allocate|bad_alloc|storage size calculation overflowed"  # on the host: torch, DALI, C and C++
    r"|cuda.{0,100}out.of.memory|cudaErrorMemoryAllocation"  # torch, DALI, faiss, NCCL, Triton
    r"|CUDA allocation failed|CUDABadAlloc|Nvml insufficient memory|nvImageCodec failure: '#5'"  # DALI
    r"|ALLOC(?:ATION)?_FAILED|ALLOCATOR_FAILURE",  # cuBLAS and its like; cuDNN; nvJPEG, nvImageCodec
    re.IGNORECASE | re.DOTALL,
)
"""What the messages of libraries say where the error is only a ``RuntimeError``."""


class OutOfMemory(RunError):
    """An out-of-memory error of this process."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error says that the memory of the host or of the GPU is full.

    Our own errors, which may name any file, are never searched for the libraries' words.
    """
    if isinstance(error, MemoryError | OutOfMemory) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    is_ours = type(error).__module__.startswith("compress_ssl.")
    return isinstance(error, RuntimeError) and not is_ours and FULL_MEMORY.search(str(error)) is not None


@contextlib.contextmanager
def explain_out_of_memory(sentence: str) -> Iterator[None]:
    """Raise ``OutOfMemory`` with a sentence on what to change if memory runs out inside the block.

    The innermost block decides: an ``OutOfMemory`` passes unchanged.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        raise OutOfMemory(sentence) from error


def first_line(error: BaseException, empty: str = "no reason given") -> str:
    """Return the first line of an error's message, short enough for one sentence; ``empty`` if it has none."""
    return str(error).partition("\n")[0].rstrip(": ") or empty
