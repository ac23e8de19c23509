"""Rank and world size of this process, as torchrun (or a job script) sets them in the environment; no torch."""

import os
import re
from typing import NamedTuple

from compress_ssl.pipeline.common.errors import InputError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""torch's names; ``MASTER_ADDR`` and ``MASTER_PORT`` are where the ranks meet."""


class TorchrunEnv(NamedTuple):
    """A process's place among those of one run, as torch names it."""

    rank: int = 0  # rank 0 writes files and logs
    world_size: int = 1
    local_rank: int = 0  # rank on this machine, and index of the process's GPU
    local_world_size: int = 1


def torchrun_env() -> TorchrunEnv:
    """Read rank and world size from the environment; rank 0 of 1 where none is set.

    Raises:
        InputError: If there are several processes, and one of the variables that they need is missing, or no number.
    """
    if _number("WORLD_SIZE", 1) == 1 or "RANK" not in os.environ:
        return TorchrunEnv()
    missing = [name for name in (*VARIABLES, "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise InputError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {missing[0]} is not set; start with torchrun, or set the "
            "variables that docs/training.md lists."
        )
    rank, world_size, local_rank, local_world_size = (_number(name, 0) for name in VARIABLES)
    if not (
        rank < world_size and local_rank < local_world_size <= world_size and 1 <= _number("MASTER_PORT", 0) < 2**16
    ):
        values = ", ".join(f"{name} {os.environ[name]}" for name in (*VARIABLES, "MASTER_PORT"))
        raise InputError(f"{values} is no place of a process; start with torchrun, or correct the variables.")
    return TorchrunEnv(rank, world_size, local_rank, local_world_size)


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name) or str(otherwise)
    if not re.fullmatch("[0-9]{1,9}", text):
        raise InputError(f"The environment variable {name} is {text!r:.100}, not a number; correct or unset it.")
    return int(text)
