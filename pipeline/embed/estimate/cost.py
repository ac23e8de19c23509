"""What work costs, by two clocks: the one on the wall, which other processes slow down, and the CPU's, which they hardly do."""

from __future__ import annotations

import time
from typing import NamedTuple


class Cost(NamedTuple):
    """Seconds on the wall, and of all CPU threads of this process together."""

    wall: float = 0.0
    cpu: float = 0.0

    def plus(self, other: Cost) -> Cost:
        """Both together."""
        return Cost(self.wall + other.wall, self.cpu + other.cpu)

    def minus(self, other: Cost) -> Cost:
        """What it costs more than the other."""
        return Cost(self.wall - other.wall, self.cpu - other.cpu)

    def times(self, factor: float) -> Cost:
        """So many times it."""
        return Cost(factor * self.wall, factor * self.cpu)

    def at_least_none(self) -> Cost:
        """Itself, without what is below zero."""
        return Cost(max(0.0, self.wall), max(0.0, self.cpu))


def now() -> Cost:
    """Both clocks."""
    return Cost(time.perf_counter(), time.process_time())


def since(begun: Cost) -> Cost:
    """What both clocks have gone on."""
    return now().minus(begun)
