"""How many processes a command was started in, as torchrun (or a job script) says by environment variables; no torch."""

from __future__ import annotations

import os
from typing import NamedTuple

from compress_ssl.pipeline.common.errors import InputError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""torch's names; ``MASTER_ADDR`` and ``MASTER_PORT`` say where they meet."""


class TorchrunEnv(NamedTuple):
    """Place of a process among those that do one work together."""

    rank: int = 0
    """Its number; 0 is the main process, which writes files and speaks."""
    processes: int = 1
    local_rank: int = 0
    """Its number on this machine, and of its GPU."""
    local_processes: int = 1


def torchrun_env() -> TorchrunEnv:
    """Read the environment.

    Raises
    ------
    InputError
        If it tells of several processes, but not all that is needed.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) == 1 or "RANK" not in os.environ:
        return TorchrunEnv()
    missing = [name for name in (*VARIABLES, "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise InputError(
            f"The environment tells of {os.environ['WORLD_SIZE']} processes (WORLD_SIZE), but not {missing[0]}; start by "
            "torchrun, or set what docs/training.md lists."
        )
    return TorchrunEnv(*(int(os.environ[name]) for name in VARIABLES))
