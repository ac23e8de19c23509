"""Parameters of tests, some of which take long."""

from collections.abc import Container, Iterable
from typing import Any

import pytest


def with_slow(names: Iterable[str], slow: Container[str]) -> list[Any]:
    """Parameters for ``parametrize``, of which some are marked slow."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]
