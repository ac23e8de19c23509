"""glibc's allocator, told to keep the memory that tensors free for those of the next batch.

By default it asks the kernel for each large tensor and gives it back when it is freed. The kernel clears every page
anew, which took a third of a network's CPU time in places (docs/performance.md).
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST_KEPT = 2**30  # bytes; memory banks and views of a teacher, which are larger, still go back when they are freed
NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Keep memory that is freed from now on; what was kept until now goes back to the kernel.

    Does nothing where the C library is not glibc.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        return
    libc.malloc_trim(ctypes.c_size_t(0))
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
