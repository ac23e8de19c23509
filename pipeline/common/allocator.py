"""glibc's allocator, told to keep the memory that tensors free for those of the next batch.

By default it asks the kernel for each large tensor and gives it back when it is freed. The kernel clears every page
anew, which was a fifth of the CPU time of ``embed`` (docs/performance.md).
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST_KEPT = 2**30  # bytes of one tensor; memory banks and views of a teacher, if larger, go back when they are freed
LARGEST_ONCE = 2**25  # what earlier releases of glibc allow
MOST_KEPT = 2**31 - 1


def keep_freed_memory() -> None:
    """Keep memory that is freed from now on; what was kept until now goes back to the kernel.

    Does nothing where the C library is not glibc.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        return
    libc.malloc_trim(ctypes.c_size_t(0))
    if not libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT):
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_ONCE)
    libc.mallopt(M_TRIM_THRESHOLD, MOST_KEPT)
