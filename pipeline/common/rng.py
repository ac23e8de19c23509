"""Random numbers that depend on a seed and the number of a draw, and on nothing else."""

from __future__ import annotations

import numpy as np


def philox(seed: int, draw: int) -> np.random.Generator:
    """Counter-based generator (Philox) of one draw: the same on any machine, in any order."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, draw], np.uint64)))
