"""The training loop: steps, metrics, checkpoints, and going on where a stopped run was.

Several trainings may share one stream of batches. Each then ends with the weights it would have alone: it has its
own optimiser, position and metrics, and torch is seeded for each of its steps.

Several processes may share each training (``distributed.py``): each does its part of every step, and what the loop does
next is agreed between them.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from compress_ssl.pipeline.common.errors import RunError, SomeTrainingsFailed, Stopped
from compress_ssl.pipeline.training.distributed import all_reduce_max, is_rank0, world_size
from compress_ssl.pipeline.training.out_of_memory import OutOfMemory
from compress_ssl.pipeline.training.signals import stop_requests
from compress_ssl.pipeline.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.training.settings import TrainingSettings

logger = logging.getLogger(__name__)

BatchT = TypeVar("BatchT")


@dataclass(frozen=True)
class BatchStream(Generic[BatchT]):
    """What the trainings see."""

    epochs: int
    steps_per_epoch: int
    batch_size: int
    """Of all processes together."""
    batches: Callable[[int, int], Iterator[BatchT]]
    """Batches of an epoch from a step on: (epoch, first step); this process's part of each."""
    waits: Callable[[], Mapping[str, float]] = dict
    """Seconds waited since the last call, by what for; logged once an epoch."""


@dataclass(frozen=True)
class TrainingTask(Generic[BatchT]):
    """One network in training: what changes, and how a step of it goes."""

    run: Path
    settings: TrainingSettings
    modules: nn.ModuleDict
    """Everything with parameters or buffers; all of it goes into the checkpoint."""
    loss: Callable[[Any], tuple[Tensor, dict[str, Tensor]]]
    """Loss of a part of a batch, and scalars to log beside it."""
    save_network: Callable[[Path], None]
    """Write the network as it stands into a folder."""
    parts: Callable[[BatchT], Sequence[Any]] = lambda batch: (batch,)
    """The equal parts in which a batch is computed; their gradients are averaged."""
    after_step: Callable[[], None] = lambda: None
    """Called after each of the optimiser's steps."""
    begin: Callable[[int, int], None] = lambda epoch, step: None
    """Called before the first step with where it begins; makes what the checkpoint does not hold."""
    measure: Callable[[], Mapping[str, float]] | None = None
    """Live evaluation."""
    when_memory_is_full: str = "lower --batch-size"


def train(
    trainings: Sequence[TrainingTask[BatchT]], stream: BatchStream[BatchT], title: str, progress: Progress
) -> None:
    """Train to the end of the last epoch, each from its checkpoint if there is one, and write the networks.

    Raises
    ------
    TrainingsFailed
        If a loss or a weight is no longer a number, or the memory is full; the last good checkpoint stays. The other
        trainings of the stream are finished and written first.
    Stopped
        If a signal asked for the end; everything is saved.
    InputError
        If a checkpoint cannot be read.
    """
    running = [Trainer(training, stream) for training in trainings]
    failures: dict[Path, str] = {}  # not the errors: their tracebacks would hold on to the tensors of what failed
    steps = stream.steps_per_epoch
    epoch, step = min(each.position for each in running)

    def each_due(action: Callable[[Trainer[BatchT]], None]) -> None:
        for each in [each for each in running if each.position == (epoch, step)]:
            try:
                action(each)
            except RunError as error:
                if world_size() > 1 and isinstance(error, OutOfMemory):
                    raise  # the other processes wait for this one's gradients
                failures[each.training.run] = str(error)
                running.remove(each)
                if running:
                    logger.error("%s The others go on.", error)

    with (
        contextlib.ExitStack() as at_the_end,
        stop_requests() as received,
        progress.track(title, stream.epochs * steps * stream.batch_size) as advance,
    ):
        for each in running:
            at_the_end.callback(each.close)
        advance((epoch * steps + step) * stream.batch_size)
        saved = time.monotonic()
        while epoch < stream.epochs and running:
            for batch in stream.batches(epoch, step):
                each_due(lambda each, batch=batch: each.do_step(batch))  # type: ignore[misc]
                step += 1
                advance(stream.batch_size)
                stopping, is_time = all_reduce_max(received() or 0, _is_time_to_save(saved, running))
                if step < steps and (stopping or is_time):
                    each_due(Trainer.save)
                    saved = time.monotonic()
                if not running or (step < steps and stopping):
                    break
            if step == steps:
                waits = dict(stream.waits())
                each_due(lambda each, waits=waits: each.end_epoch(waits))  # type: ignore[misc]
                epoch, step, saved = epoch + 1, 0, time.monotonic()
            if running and epoch < stream.epochs:
                _raise_if_stopped(received(), f"{title}: stopped by {{}} and saved at epoch {epoch}, step {step}.")
    if is_rank0():
        for each in running:
            each.training.save_network(each.training.run)
    if failures:
        raise SomeTrainingsFailed(failures)
    _raise_if_stopped(received(), f"{title}: stopped by {{}} when all was done.")


def _raise_if_stopped(received: signal.Signals | None, sentence: str) -> None:
    """End if a process was asked to, all at the same place; whoever comes first waits until the main one has saved."""
    (number,) = all_reduce_max(received or 0)
    if number:
        stopping = signal.Signals(number)
        raise Stopped(sentence.format(stopping.name), stopping)


def _is_time_to_save(saved: float, running: Sequence[Trainer[Any]]) -> bool:
    return (
        is_rank0()
        and bool(running)
        and time.monotonic() - saved > 60 * min(each.training.settings.checkpoint_minutes for each in running)
    )
