"""The loop over a small network and batches drawn for the tests."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.training.loop import train
from compress_ssl.pipeline.training.run_folder import open_runs
from compress_ssl.pipeline.training.settings import TrainingSettings
from compress_ssl.pipeline.training.task import BatchStream, TrainingTask

STEPS = 4


def images(epoch: int, step: int) -> Tensor:
    return torch.randn(12, 6, generator=torch.Generator().manual_seed(100 * epoch + step))


def batches(epoch: int, first_step: int) -> Iterator[Tensor]:
    return (images(epoch, step) for step in range(first_step, STEPS))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


def loss_of(module: nn.Module, batch: Tensor) -> Tensor:
    return (module(batch) - batch[:, :2].sin()).square().mean()


def run_loop(
    run: Path,
    parts: int = 1,
    batches: Callable[[int, int], Iterator[Tensor]] = batches,
    loss_of: Callable[[nn.Module, Tensor], Tensor] = loss_of,
    **given: Any,
) -> nn.Module:
    settings = TrainingSettings(**{"epochs": 3, "batch_size": 12, "learning_rate": 0.1, "schedule": "step", **given})
    module = network()
    open_runs([(settings, run, {})])

    class Task(TrainingTask[Tensor]):
        def __init__(self) -> None:
            self.run, self.settings, self.modules = run, settings, nn.ModuleDict({"network": module})

        def micro_batches(self, batch: Tensor) -> Sequence[Tensor]:
            return batch.chunk(parts)

        def loss(self, part: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return loss_of(module, part), {}

        def save_network(self, folder: Path) -> None:
            (folder / "network").write_bytes(b"trained")

    stream = BatchStream(epochs=settings.epochs, images_per_epoch=STEPS * 12, batch_size=12, batches=batches)
    train([Task()], stream, "test", Silent())
    return module
