"""Progress-reporting protocol of the stages; the command line draws the bars."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol


class Progress(Protocol):
    """Opens one progress bar per piece of work."""

    def track(
        self, title: str, total: int, unit: str = "images"
    ) -> contextlib.AbstractContextManager[Callable[[int], None]]:
        """Open a bar of ``total`` units; call what it yields with the number of units just done."""
        ...


class Silent:
    """Shows no progress: for use as a library, and in tests."""

    @contextlib.contextmanager
    def track(self, title: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
        """Ignore all progress."""
        yield lambda amount: None
