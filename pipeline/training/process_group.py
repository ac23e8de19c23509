"""Join the process group that torchrun started, and end all ranks with one message.

The first rank that ends with an error reports it; the others raise ``ReportedByAnotherRank``.
"""

import contextlib
import functools
import itertools
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from compress_ssl.pipeline.common.errors import ReportedByAnotherRank, RunError, Stopped
from compress_ssl.pipeline.common.torchrun import torchrun_env
from compress_ssl.pipeline.training.torch_errors import first_line

TIMEOUT = timedelta(hours=1)
"""How long a rank waits for another. A rank that died is noticed at once, by its closed connection."""

_group_numbers = itertools.count()


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Initialize torch's process group for the block, if torchrun started several processes.

    The backend is NCCL between GPUs and gloo between CPUs.

    Raises:
        RunError: If the ranks cannot reach each other, or another rank died.
        ReportedByAnotherRank: If another rank reports why the work ended.
    """
    env = torchrun_env()
    if env.world_size == 1 or dist.is_initialized():
        yield
        return
    try:
        store = PrefixStore(f"compress-ssl-{next(_group_numbers)}", _rendezvous_store())
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=env.rank, world_size=env.world_size, timeout=TIMEOUT)
    except RuntimeError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RunError(
            f"Rank {env.rank} of {env.world_size} cannot reach the others at {address} ({first_line(error)}); check "
            "MASTER_ADDR, MASTER_PORT and the network between the machines."
        ) from error
    try:
        yield
        dist.all_reduce(torch.zeros(1))  # no rank leaves before all files are written
    except BaseException as error:
        if not _is_first_to_fail(store):
            raise ReportedByAnotherRank from error
        is_connection = isinstance(error, dist.DistError) or any(
            word in str(error) for word in ("gloo", "Connection", "NCCL")
        )
        if isinstance(error, RuntimeError) and not isinstance(error, RunError | Stopped) and is_connection:
            raise RunError(
                f"Another of the {env.world_size} processes died without a message (killed? out of memory?) or did not "
                f"answer for {TIMEOUT}; resume from the last checkpoint. torch's message: {first_line(error)}"
            ) from error
        raise
    dist.destroy_process_group()


@functools.cache
def _rendezvous_store() -> Store:
    store: Store = next(rendezvous("env://"))[0]
    return store


def _is_first_to_fail(store: Store) -> bool:
    """Return True if no other rank has reported an error; False if the host of the store is gone."""
    try:
        return bool(store.add("ended", 1) == 1)
    except RuntimeError:
        return False
