"""Torch's errors in one sentence: the first line of any, and what to change where memory ran out."""

import contextlib
from collections.abc import Iterator

import torch

from compress_ssl.pipeline.common.errors import RunError

MESSAGES = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "ALLOC_FAILED")
"""Parts of torch's messages where it raises no ``OutOfMemoryError``."""


class OutOfMemory(RunError):
    """An out-of-memory error of this process."""


@contextlib.contextmanager
def explain_out_of_memory(sentence: str) -> Iterator[None]:
    """Raise ``OutOfMemory`` with a sentence on what to change in place of torch's errors inside the block."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        is_typed = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if isinstance(error, RunError) or not (is_typed or any(part in str(error) for part in MESSAGES)):
            raise
        raise OutOfMemory(sentence) from error


def first_line(error: BaseException, empty: str = "no reason given") -> str:
    """Return the first line of an error's message, short enough for one sentence; ``empty`` if it has none."""
    return str(error).partition("\n")[0].rstrip(": ") or empty
