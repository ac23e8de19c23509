"""Numbers in environment variables of this program."""

from __future__ import annotations

import contextlib
import math
import os

from compress_ssl.storage.errors import StoreError


def number_from(name: str, unit: str, example: str) -> float | None:
    """Return the finite number, at least 0, in an environment variable; None if it is not set, or empty.

    Raises:
        StoreError: If it is no such number.
    """
    given = os.environ.get(name)
    if not given:
        return None
    with contextlib.suppress(ValueError):
        if 0 <= (number := float(given)) < math.inf:
            return number
    raise StoreError(f"{name} must be a number of {unit}, got '{given:.50}'; write {example}.")
