"""Read encoded images: one, or batches ahead of their use."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.source import ImageSource


def read_image(source: ImageSource, path: str, advice: str = "restore it, or remove it.") -> bytes:
    """Return an encoded image.

    Raises:
        InputError: If it is missing or cannot be read; the message ends with ``advice``.
    """
    try:
        return source.read(path)
    except OSError as error:
        raise InputError(f"The image '{source.describe(path)}' cannot be read ({error.strerror}); {advice}") from error


def read_stamp(source: ImageSource, path: str) -> tuple[int, int]:
    """Return an image's stamp: its size in bytes, and a number that changes with its content.

    Raises:
        InputError: If the image is missing.
    """
    try:
        return source.stamp(path)
    except OSError as error:
        where = source.describe(path)
        raise InputError(f"The image '{where}' cannot be read ({error.strerror}); restore it, or remove it.") from error


def read_ahead(
    batches: Iterable[Sequence[int]], read: Callable[[int], bytes], *, threads: int, depth: int
) -> Iterator[list[bytes]]:
    """Yield ``read(row)`` of the rows of each batch, reading up to ``depth`` batches at a time in threads."""
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[list[Future[bytes]]] = deque()
        for rows in batches:
            pending.append([pool.submit(read, row) for row in rows])
            if len(pending) == depth:
                yield [future.result() for future in pending.popleft()]
        for futures in pending:
            yield [future.result() for future in futures]
