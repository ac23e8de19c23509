"""Data-parallel training: process group, slices of batches, collectives, DDP. With one process all are the identity.

Each rank renders and computes its slice of every batch. DistributedDataParallel (Li et al. 2020) averages the gradients
during the backward pass; what enters a memory bank is gathered in batch order, so that the banks of all ranks are
equal. Rank 0 alone writes files.

Letters: W world size, B global batch size, b = B / W local batch size.
"""

import contextlib
import functools
import itertools
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from compress_ssl.pipeline.common.errors import InputError, ReportedByAnotherRank, RunError, Stopped
from compress_ssl.pipeline.common.torch_errors import first_line
from compress_ssl.pipeline.common.torchrun import torchrun_env

Loss = Callable[[Any], tuple[Tensor, dict[str, Tensor]]]

ResultT = TypeVar("ResultT")

TIMEOUT = timedelta(hours=1)
"""How long a rank waits for one that hangs.

Gloo notices at once that a rank has died, by its closed connection. NCCL does so between machines at most: a rank that
waits for its GPU is aborted (SIGABRT) by the watchdog of torch's ``ProcessGroupNCCL`` after this time, if torchrun or
srun has not ended it before.
"""

_group_numbers = itertools.count()


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Initialize torch's process group for the block, if torchrun started several processes.

    The backend is NCCL between GPUs and gloo between CPUs. All ranks end with one message: the first one that ends with
    an error reports it.

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
        is_first = False
        with contextlib.suppress(RuntimeError):  # the host of the store is gone
            is_first = store.add("ended", 1) == 1
        if not is_first:
            raise ReportedByAnotherRank from error
        names_it = any(word in str(error) for word in ("gloo", "Connection", "NCCL"))
        is_connection = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and names_it)
        if is_connection and not isinstance(error, RunError | Stopped):
            raise RunError(
                f"Another of the {env.world_size} processes died without a message (killed? out of memory?) or did not "
                f"answer for {TIMEOUT}; what was saved is kept: run the same command again, with --resume if it has "
                f"it. torch's message: {first_line(error)}"
            ) from error
        raise
    dist.destroy_process_group()


@functools.cache
def _rendezvous_store() -> Store:
    store: Store = next(rendezvous("env://"))[0]
    return store


def world_size() -> int:
    """Return the number of ranks, W."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_rank0() -> bool:
    """Return True on the rank that writes files."""
    return rank() == 0


def check_gpus_differ(device: torch.device) -> None:
    """Raise ``InputError`` if two ranks have one GPU, for which NCCL would wait or fail; a collective call."""
    if world_size() == 1:
        return
    gpu = f"{socket.gethostname()} {torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else None
    gpus: list[str | None] = [None] * world_size()
    dist.all_gather_object(gpus, gpu)
    if gpu is not None and (sharing := gpus.count(gpu)) > 1:
        raise InputError(
            f"{sharing} processes share one GPU of {socket.gethostname()}; start one process per GPU, or use --device "
            "cpu."
        )


def check_batch_divides(batch_size: int, micro_batches: int = 1, option: str = "--batch-size") -> None:
    """Raise ``InputError``, naming one that fits, if a batch size is not a multiple of ranks x micro-batches."""
    divisor = world_size() * micro_batches
    if world_size() > 1 and batch_size % divisor:
        of = f"{world_size()} processes" + (f" times --accumulation {micro_batches}" if micro_batches > 1 else "")
        raise InputError(
            f"{option} {batch_size} is the batch size over all ranks, and {of} do not divide it; take "
            f"{batch_size // divisor * divisor or divisor} or another multiple."
        )


def local_batch_size(batch_size: int) -> int:
    """Return b, the images of a global batch that this rank computes."""
    return batch_size // world_size()


def rank_indices(order: npt.NDArray[np.int64], batch_size: int) -> npt.NDArray[np.int64]:
    """Return this rank's slice of each global batch of an order of images, concatenated.

    Of a smaller last batch the first ranks have whole slices, the others what is left.
    """
    own: npt.NDArray[np.int64] = order[np.arange(len(order)) % batch_size // local_batch_size(batch_size) == rank()]
    return own


def rank_batches(order: npt.NDArray[np.int64], batch_size: int) -> list[npt.NDArray[np.int64]]:
    """Return this rank's slice of each global batch of an order of images; of a smaller last one an equal part, too.

    Raises:
        ValueError: If the ranks do not divide a batch.
    """
    batches = (order[start : start + batch_size] for start in range(0, len(order), batch_size))
    return [np.split(batch, world_size())[rank()] for batch in batches]


def gather_rows(rows: Tensor) -> Tensor:
    """Gather each rank's rows (b, ...) into the rows (B, ...) of the global batch, without gradient."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def gather_ragged(rows: Tensor, batch_size: int, count: int) -> Tensor:
    """Gather the rows of a possibly shorter last batch of ``count`` images, split as by ``rank_indices``."""
    if world_size() == 1:
        return rows
    padded = rows.new_zeros((local_batch_size(batch_size), *rows.shape[1:]))
    padded[: len(rows)] = rows
    return gather_rows(padded)[:count]


def gather_with_gradient(rows: Tensor) -> Tensor:
    """Gather as ``gather_rows`` does, for a loss that every rank computes on the global batch.

    Each rank's rows receive their gradient times W, because DDP averages the gradients of the weights afterwards.
    ``torch.distributed.nn.functional.all_gather`` gives the same gradient but communicates once more in the backward
    pass; torch has deprecated it.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _GatherWithGradient.apply(rows)
    return gathered


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor) -> Tensor:
        return gather_rows(rows)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        return gradients[0].chunk(world_size())[rank()] * world_size()


def all_reduce_max(*numbers: int) -> tuple[int, ...]:
    """Return the element-wise maximum over ranks, reduced on the CPU so that no GPU waits."""
    if world_size() == 1:
        return numbers
    reduced = torch.tensor(numbers, dtype=torch.int64)
    dist.all_reduce(reduced, dist.ReduceOp.MAX)
    return tuple(reduced.tolist())


def all_reduce_mean(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the mean over ranks of each scalar."""
    if world_size() == 1 or not values:
        return dict(values)
    stacked = torch.stack([value.double() for value in values.values()])
    dist.all_reduce(stacked)
    return dict(zip(values, stacked / world_size(), strict=True))


def broadcast_from_rank0(compute: Callable[[], ResultT]) -> ResultT:
    """Compute a value on rank 0 and return it on all ranks."""
    if world_size() == 1:
        return compute()
    found: list[Any] = [compute() if is_rank0() else None]
    dist.broadcast_object_list(found, src=0, device=torch.device("cpu"))
    result: ResultT = found[0]
    return result


@contextlib.contextmanager
def rank0_first() -> Iterator[None]:
    """Run the block on rank 0 first; the other ranks then find its files on the disk."""
    if not is_rank0():
        all_reduce_max(0)
    yield
    if is_rank0():
        all_reduce_max(0)


def broadcast_state(modules: nn.Module) -> None:
    """Copy rank 0's parameters and buffers to all ranks, in place."""
    if world_size() > 1:
        for value in (*modules.parameters(), *modules.buffers()):
            dist.broadcast(value.detach(), src=0)


class _LossModule(nn.Module):
    """A loss with the parameters it trains, without the buffers, which DDP would broadcast at every step."""

    def __init__(self, modules: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weight for weight in modules.parameters() if weight.requires_grad)
        self.loss = loss

    def forward(self, micro_batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(micro_batch)


def wrap_ddp(modules: nn.Module, loss: Loss) -> Loss:
    """Return a loss whose backward pass averages the gradients of these modules' parameters over ranks."""
    return DistributedDataParallel(_LossModule(modules, loss)) if world_size() > 1 else loss


def no_sync(loss: Loss, *, accumulate: bool) -> contextlib.AbstractContextManager[None]:
    """Skip DDP's gradient averaging inside the block while gradients accumulate."""
    if accumulate and isinstance(loss, DistributedDataParallel):
        return loss.no_sync()
    return contextlib.nullcontext()


def check_gradients(modules: nn.Module) -> None:
    """Raise ``InputError``, naming it, if a trained parameter has no gradient, which DDP needs."""
    if world_size() == 1:
        return
    for name, weight in modules.named_parameters():
        if weight.requires_grad and weight.grad is None:
            raise InputError(f"The loss does not depend on the parameter '{name}'; train this network in one process.")


def convert_sync_batchnorm(modules: nn.Module, device: torch.device) -> None:
    """Convert batch norm to SyncBatchNorm in place; raise ``InputError`` on CPUs, which torch does not support."""
    if world_size() == 1:
        return
    if device.type != "cuda":
        raise InputError("--sync-bn needs GPUs, because torch's SyncBatchNorm does; leave it out on CPUs.")
    from timm import layers  # torch's own conversion loses the activation of timm's layers

    convert: Callable[[nn.Module], nn.Module] = layers.convert_sync_batchnorm  # type: ignore[attr-defined]
    convert(modules)
