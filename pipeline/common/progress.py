"""How a stage tells how far it is. The stages know this protocol only; the CLI draws the bars."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Progress(Protocol):
    """Opens a bar for one piece of work."""

    def track(
        self, title: str, total: int, unit: str = "images"
    ) -> contextlib.AbstractContextManager[Callable[[int], None]]:
        """Show ``title`` with ``total`` units to do; the value given back is called with each amount done."""
        ...


class Silent:
    """Shows nothing; what library users and tests get."""

    @contextlib.contextmanager
    def track(self, title: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
        """Accept and ignore every amount."""
        yield lambda amount: None
