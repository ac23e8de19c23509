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
from typing import TYPE_CHECKING, Any

from compress_ssl.pipeline.common.errors import RunError, SomeTrainingsFailed, Stopped
from compress_ssl.pipeline.training.distributed import all_reduce_max, is_rank0, world_size
from compress_ssl.pipeline.training.out_of_memory import OutOfMemory
from compress_ssl.pipeline.training.signals import stop_requests
from compress_ssl.pipeline.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.training.task import BatchStream, BatchT, TrainingTask

logger = logging.getLogger(__name__)


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
                failures[each.task.run] = str(error)
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
            each.task.save_network(each.task.run)
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
        and time.monotonic() - saved > 60 * min(each.task.settings.checkpoint_minutes for each in running)
    )
