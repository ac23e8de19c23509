"""The collectives of two ranks, by a group of one: what they ask of NCCL, on what tensors."""

from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn

from compress_ssl.pipeline.training import distributed
from tests.gpu.run import Run


def nccl(run: Run) -> None:
    """Broadcasts, means and averaged gradients as in ``distill``, which makes no group for one process."""
    device = torch.device(run.device)
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True)
    dist.init_process_group("gloo" if run.toy else "cpu:gloo,cuda:nccl", store=store, rank=0, world_size=1)
    with patch.object(distributed, "world_size", lambda: 2):
        collectives(run, device)
    dist.destroy_process_group()


def collectives(run: Run, device: torch.device) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 4))
    network.to(device).to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 8, 8, device=device)
    with run.attempt("broadcast"):
        before = [value.clone() for value in network.state_dict().values()]
        distributed.broadcast_state(network)
        same = all(torch.equal(a, b) for a, b in zip(before, network.state_dict().values(), strict=True))
        run.check("broadcast of channels-last weights", same)
    with run.attempt("sums"):
        mean = distributed.all_reduce_mean({"loss": torch.ones((), device=device)})["loss"]
        run.check("mean of two ranks, one of which is there", float(mean) == 0.5)
        run.check("maximum, on the CPU", distributed.all_reduce_max(3, 0) == (3, 0))
        rows, parts = torch.arange(6.0, device=device).view(3, 2), [torch.empty(3, 2, device=device)]
        dist.all_gather(parts, rows)
        run.check("rows gathered", torch.equal(parts[0], rows))
    with run.attempt("DistributedDataParallel"):

        def loss_of(batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return network(batch).square().mean(), {}

        alone = torch.autograd.grad(loss_of(images)[0], list(network.parameters()))
        loss = distributed.wrap_ddp(network, loss_of)
        with distributed.no_sync(loss, accumulate=True):
            loss(images)[0].backward()
        loss(images)[0].backward()
        distributed.check_gradients(network)
        pairs = zip(network.parameters(), alone, strict=True)
        same = all(torch.allclose(weight.grad, 2 * each, rtol=1e-3, atol=1e-4) for weight, each in pairs)
        run.check("gradients averaged, of two micro-batches", same)
