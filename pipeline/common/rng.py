"""Counter-based random numbers: each draw depends only on the seed and its own number."""

import numpy as np


def philox(seed: int, draw: int) -> np.random.Generator:
    """Return the generator (Philox) of draw number ``draw``: the same on any machine, in any order."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, draw], np.uint64)))
