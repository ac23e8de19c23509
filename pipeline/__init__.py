"""The stages, the recipe that runs them, and the libraries that they share."""

import os

# Idle OpenMP threads sleep instead of spinning. Torch shares the cores with the decoder and, on a shared node, with
# others: spinning made small networks more than ten times slower there (docs/decisions.md). Read once, when torch
# loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
