"""Files and objects read, written and copied side by side, in threads."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

Item = TypeVar("Item")
Result = TypeVar("Result")

POLL_SECONDS = 0.5


def map_threads(function: Callable[[Item], Result], items: Iterable[Item], *, threads: int = 16) -> Iterator[Result]:
    """Yield ``function`` of every item, in order; an error cancels the items that have not started."""
    pool = ThreadPoolExecutor(threads)
    try:
        futures = deque(pool.submit(function, item) for item in items)
        while futures:
            yield result_of(futures.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def result_of(future: Future[Result]) -> Result:
    """Wait for a result as ``future.result()`` does, but see within a moment a signal that did not end the wait.

    One that comes just as the main thread begins to wait would be seen only after it: after all retries of a request.
    """
    while not future.done():
        with suppress(TimeoutError):
            return future.result(POLL_SECONDS)
    return future.result()
