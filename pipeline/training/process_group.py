"""Joining the processes that torchrun started, and ending as one: the first that has a reason tells it, once."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from compress_ssl.pipeline.common.errors import ReportedByAnotherRank, RunError, Stopped
from compress_ssl.pipeline.common.torchrun import TorchrunEnv, torchrun_env
from compress_ssl.pipeline.training.checkpoint import first_line

if TYPE_CHECKING:
    from collections.abc import Iterator


HANGING_AFTER = timedelta(hours=1)
"""A process that waits for another so long ends. One that died is noticed at once, by its closed connection."""

_numbers = itertools.count()


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Work together with the other processes of the launch, if there are any, while the block runs.

    Messages go by NCCL between GPUs and by gloo between CPUs.

    Raises
    ------
    RunError
        If the processes do not find each other, or another one ended without a word.
    ToldByAnother
        If another process tells why the work ended.
    """
    here = torchrun_env()
    if here.world_size == 1 or dist.is_initialized():
        yield
        return
    store = _join(here)
    try:
        yield
        dist.all_reduce(torch.zeros(1))  # nobody leaves before all is written
    except BaseException as error:
        if not _is_first(store):
            raise ReportedByAnotherRank from error
        if isinstance(error, RuntimeError) and not isinstance(error, RunError | Stopped) and _is_of_a_connection(error):
            raise RunError(
                f"Another of the {here.world_size} processes ended without a word (killed? out of memory?) or was silent for "
                f"{HANGING_AFTER}; what is saved is kept. torch says: {first_line(error)}"
            ) from error
        raise
    dist.destroy_process_group()


def _join(here: TorchrunEnv) -> Store:
    try:
        store = PrefixStore(f"compress-ssl-{next(_numbers)}", _meeting_point())
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=here.rank, world_size=here.world_size, timeout=HANGING_AFTER)
    except RuntimeError as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RunError(
            f"Process {here.rank} of {here.world_size} cannot meet the others at {place} ({first_line(error)}); check "
            "MASTER_ADDR, MASTER_PORT and the network between the machines."
        ) from error
    return store


@functools.cache
def _meeting_point() -> Store:
    store: Store = next(rendezvous("env://"))[0]
    return store


def _is_first(store: Store) -> bool:
    """Whether no other process has told why the work ends; not so if who keeps the list is gone."""
    try:
        return bool(store.add("ended", 1) == 1)
    except RuntimeError:
        return False


def _is_of_a_connection(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "Connection", "NCCL"))
