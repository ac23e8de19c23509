"""Saying in a sentence that the memory is full, however torch says it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from compress_ssl.pipeline.common.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "ALLOC_FAILED")
"""How torch says so where it has no error of its own for it."""


class OutOfMemory(RunError):
    """The memory of this process is full."""


@contextlib.contextmanager
def explain_out_of_memory(sentence: str) -> Iterator[None]:
    """Say what was being done, and what can be done about it, where the memory is full.

    Raises
    ------
    FullMemory
        With the sentence.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's own out-of-memory error is a RuntimeError
        full = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
            said in str(error) for said in FULL_MEMORY
        )
        if not full or isinstance(error, RunError):
            raise
        raise OutOfMemory(sentence) from error
