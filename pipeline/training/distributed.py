"""What processes that train one network together tell each other; in one process every function is the identity.

Each renders and computes its slice of every batch. Gradients are averaged by torch's DistributedDataParallel (Li et al.
2020) while the backward pass is still going on; what enters a memory bank is gathered in the order of the whole batch, so
all processes hold the same. The main process alone writes.

Letters: W processes, B images of a batch, b = B / W.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from compress_ssl.pipeline.common.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt
    from torch import Tensor
    from torch.autograd.function import FunctionCtx

    Loss = Callable[[Any], tuple[Tensor, dict[str, Tensor]]]

ResultT = TypeVar("ResultT")


def world_size() -> int:
    """W."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_rank0() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def check_batch_divides(batch_size: int, parts: int = 1, option: str = "--batch-size") -> None:
    """Check that every process gets as many images of a batch, in as many equal parts.

    Raises
    ------
    InputError
        If not.
    """
    among = world_size() * parts
    if world_size() > 1 and batch_size % among:
        of = f"{world_size()} processes" + (f" times --accumulation {parts}" if parts > 1 else "")
        raise InputError(
            f"{option} {batch_size} is of all processes together, and {of} do not divide it; take {batch_size // among * among or among}"
            " or another multiple."
        )


def local_batch_size(batch_size: int) -> int:
    """b, images of a batch that this process computes."""
    return batch_size // world_size()


def rank_indices(order: npt.NDArray[np.int64], batch_size: int) -> npt.NDArray[np.int64]:
    """What of an order of images this process computes: slice number ``rank`` of each of its batches."""
    own: npt.NDArray[np.int64] = order[np.arange(len(order)) % batch_size // local_batch_size(batch_size) == rank()]
    return own


def gather_rows(rows: Tensor) -> Tensor:
    """Rows (B, ...) of a whole batch from the rows (b, ...) of every process."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def gather_ragged(rows: Tensor, batch_size: int, count: int) -> Tensor:
    """Rows of a batch that may be shorter, ``count`` in all, from those that ``own_rows`` gave every process."""
    if world_size() == 1:
        return rows
    padded = rows.new_zeros((local_batch_size(batch_size), *rows.shape[1:]))
    padded[: len(rows)] = rows
    return gather_rows(padded)[:count]


def gather_with_gradient(rows: Tensor) -> Tensor:
    """``gather_rows`` for a loss that all processes compute of the whole batch.

    Each sends back the gradient of its own rows alone, times W, since gradients of weights are averaged afterwards.
    """
    if world_size() == 1:
        return rows
    whole: Tensor = _Gathered.apply(rows)
    return whole


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor) -> Tensor:
        return gather_rows(rows)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        return gradients[0].chunk(world_size())[rank()] * world_size()


def all_reduce_max(*numbers: int) -> tuple[int, ...]:
    """The largest that any process has, of each number. The processes' CPUs agree on it; no GPU waits."""
    if world_size() == 1:
        return numbers
    agreed = torch.tensor(numbers, dtype=torch.int64)
    dist.all_reduce(agreed, dist.ReduceOp.MAX)
    return tuple(agreed.tolist())


def all_reduce_mean(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean over the processes of each scalar."""
    if world_size() == 1 or not values:
        return dict(values)
    together = torch.stack([value.double() for value in values.values()])
    dist.all_reduce(together)
    return dict(zip(values, together / world_size(), strict=True))


def broadcast_from_rank0(compute: Callable[[], ResultT]) -> ResultT:
    """What the main process computes; the others wait for it."""
    if world_size() == 1:
        return compute()
    found: list[Any] = [compute() if is_rank0() else None]
    dist.broadcast_object_list(found, src=0, device=torch.device("cpu"))
    result: ResultT = found[0]
    return result


@contextlib.contextmanager
def rank0_first() -> Any:
    """Let the main process through first, which leaves on the disk what spares the others the work."""
    if not is_rank0():
        all_reduce_max(0)
    yield
    if is_rank0():
        all_reduce_max(0)


def broadcast_state(modules: nn.Module) -> None:
    """Give all processes the main one's weights and buffers."""
    if world_size() > 1:
        for value in modules.state_dict().values():
            dist.broadcast(value, src=0)


class _LossOfWeights(nn.Module):
    """Tells DistributedDataParallel of the weights that a loss trains; of no buffers, which it would broadcast at every step."""

    def __init__(self, modules: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weight for weight in modules.parameters() if weight.requires_grad)
        self.loss = loss

    def forward(self, part: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(part)


def wrap_ddp(modules: nn.Module, loss: Loss) -> Loss:
    """A loss whose backward pass averages the gradients of these modules' weights over the processes."""
    return DistributedDataParallel(_LossOfWeights(modules, loss)) if world_size() > 1 else loss


def no_sync(loss: Loss, *, wanted: bool) -> contextlib.AbstractContextManager[None]:
    """Leave gradients as they are in the block, to be averaged with those of a later part."""
    if wanted and isinstance(loss, DistributedDataParallel):
        return loss.no_sync()
    return contextlib.nullcontext()


def check_gradients(modules: nn.Module) -> None:
    """Check that every weight has got a gradient, without which they cannot be averaged.

    Raises
    ------
    InputError
        Naming the first that has none.
    """
    if world_size() == 1:
        return
    for name, weight in modules.named_parameters():
        if weight.requires_grad and weight.grad is None:
            raise InputError(f"The weights '{name}' do not take part in the loss; train this network in one process.")


def convert_sync_batchnorm(modules: nn.Module, device: torch.device) -> None:
    """Take the statistics of batch norm over all processes; in place. One process has them of the whole batch anyway.

    Raises
    ------
    InputError
        On CPUs, for which torch has no such layer.
    """
    if world_size() == 1:
        return
    if device.type != "cuda":
        raise InputError("--sync-bn needs GPUs, since torch's synchronised batch norm does; leave it out on CPUs.")
    from timm import layers  # torch's own conversion loses the activation of timm's layers

    convert: Callable[[nn.Module], nn.Module] = layers.convert_sync_batchnorm  # type: ignore[attr-defined]
    convert(modules)
