"""The loop with small networks of the tests' own, against plain torch."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.training.loop import train
from compress_ssl.pipeline.training.metrics import MetricsLog, truncate_metrics
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


def run_loop(run: Path, parts: int = 1, **given: Any) -> nn.Module:
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
            pass

    train([Task()], BatchStream(3, STEPS, 12, batches), "test", Silent())
    return module


def test_loop_is_that_of_plain_torch(tmp_path: Path) -> None:
    trained = run_loop(tmp_path / "run", milestones=(1,), gamma=0.5, momentum=0.8, weight_decay=0.01)
    plain = network()
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.8, weight_decay=0.01)
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = 0.1 if epoch < 1 else 0.05
        for batch in batches(epoch, 0):
            optimizer.zero_grad()
            loss_of(plain, batch).backward()
            optimizer.step()
    for ours, theirs in zip(trained.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_parts_of_a_batch_add_up_to_the_batch(tmp_path: Path, parts: int) -> None:
    whole, in_parts = run_loop(tmp_path / "whole"), run_loop(tmp_path / "parts", parts)
    for ours, theirs in zip(in_parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_metrics_pending_at_a_checkpoint_go_into_the_next_line(tmp_path: Path) -> None:
    first = MetricsLog(tmp_path, steps_per_epoch=9, tensorboard=False, done=0)
    first.add({"loss": torch.tensor(1.0)}, 8)
    first.add({"loss": torch.tensor(4.0)}, 8)
    second = MetricsLog(tmp_path, steps_per_epoch=9, tensorboard=False, done=2, pending=first.pending())
    second.add({"loss": torch.tensor(10.0)}, 8)
    second.write_means(0, 3)
    assert '"loss": 5.0' in (tmp_path / "metrics.jsonl").read_text()


def test_metrics_of_steps_to_be_done_again_are_dropped(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, steps_per_epoch=9, tensorboard=False, done=0)
    for epoch, step in ((0, 5), (0, 9), (1, 5), (1, 9), (2, 5)):
        log.write(epoch, step, {"loss": 1.0})
    kept = (tmp_path / "metrics.jsonl").read_text().splitlines()
    truncate_metrics(tmp_path, 1, 5)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == kept[:3]
    truncate_metrics(tmp_path, 1, 0)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == kept[:2]
