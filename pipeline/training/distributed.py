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


def processes() -> int:
    """W."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def check_batch(batch_size: int, parts: int = 1, option: str = "--batch-size") -> None:
    """Check that every process gets as many images of a batch, in as many equal parts.

    Raises
    ------
    InputError
        If not.
    """
    among = processes() * parts
    if processes() > 1 and batch_size % among:
        of = f"{processes()} processes" + (f" times --accumulation {parts}" if parts > 1 else "")
        raise InputError(
            f"{option} {batch_size} is of all processes together, and {of} do not divide it; take {batch_size // among * among or among}"
            " or another multiple."
        )


def share(batch_size: int) -> int:
    """b, images of a batch that this process computes."""
    return batch_size // processes()


def own_rows(order: npt.NDArray[np.int64], batch_size: int) -> npt.NDArray[np.int64]:
    """What of an order of images this process computes: slice number ``rank`` of each of its batches."""
    own: npt.NDArray[np.int64] = order[np.arange(len(order)) % batch_size // share(batch_size) == rank()]
    return own


def gather_rows(rows: Tensor) -> Tensor:
    """Rows (B, ...) of a whole batch from the rows (b, ...) of every process."""
    if processes() == 1:
        return rows
    parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(processes())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def gather_shorter(rows: Tensor, batch_size: int, count: int) -> Tensor:
    """Rows of a batch that may be shorter, ``count`` in all, from those that ``own_rows`` gave every process."""
    if processes() == 1:
        return rows
    padded = rows.new_zeros((share(batch_size), *rows.shape[1:]))
    padded[: len(rows)] = rows
    return gather_rows(padded)[:count]


def gather_with_gradient(rows: Tensor) -> Tensor:
    """``gather_rows`` for a loss that all processes compute of the whole batch.

    Each sends back the gradient of its own rows alone, times W, since gradients of weights are averaged afterwards.
    """
    if processes() == 1:
        return rows
    whole: Tensor = _Gathered.apply(rows)
    return whole


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor) -> Tensor:
        return gather_rows(rows)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        return gradients[0].chunk(processes())[rank()] * processes()


def largest(*numbers: int) -> tuple[int, ...]:
    """The largest that any process has, of each number. The processes' CPUs agree on it; no GPU waits."""
    if processes() == 1:
        return numbers
    agreed = torch.tensor(numbers, dtype=torch.int64)
    dist.all_reduce(agreed, dist.ReduceOp.MAX)
    return tuple(agreed.tolist())


def means(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean over the processes of each scalar."""
    if processes() == 1 or not values:
        return dict(values)
    together = torch.stack([value.double() for value in values.values()])
    dist.all_reduce(together)
    return dict(zip(values, together / processes(), strict=True))


def from_main(compute: Callable[[], ResultT]) -> ResultT:
    """What the main process computes; the others wait for it."""
    if processes() == 1:
        return compute()
    found: list[Any] = [compute() if is_main() else None]
    dist.broadcast_object_list(found, src=0, device=torch.device("cpu"))
    result: ResultT = found[0]
    return result


@contextlib.contextmanager
def main_first() -> Any:
    """Let the main process through first, which leaves on the disk what spares the others the work."""
    if not is_main():
        largest(0)
    yield
    if is_main():
        largest(0)


def send_state(modules: nn.Module) -> None:
    """Give all processes the main one's weights and buffers."""
    if processes() > 1:
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


def averaging(modules: nn.Module, loss: Loss) -> Loss:
    """A loss whose backward pass averages the gradients of these modules' weights over the processes."""
    return DistributedDataParallel(_LossOfWeights(modules, loss)) if processes() > 1 else loss


def keeping_gradients(loss: Loss, *, wanted: bool) -> contextlib.AbstractContextManager[None]:
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
    if processes() == 1:
        return
    for name, weight in modules.named_parameters():
        if weight.requires_grad and weight.grad is None:
            raise InputError(f"The weights '{name}' do not take part in the loss; train this network in one process.")


def synchronise_batch_norm(modules: nn.Module, device: torch.device) -> None:
    """Take the statistics of batch norm over all processes; in place. One process has them of the whole batch anyway.

    Raises
    ------
    InputError
        On CPUs, for which torch has no such layer.
    """
    if processes() == 1:
        return
    if device.type != "cuda":
        raise InputError("--sync-bn needs GPUs, since torch's synchronised batch norm does; leave it out on CPUs.")
    from timm import layers  # torch's own conversion loses the activation of timm's layers

    convert: Callable[[nn.Module], nn.Module] = layers.convert_sync_batchnorm  # type: ignore[attr-defined]
    convert(modules)
