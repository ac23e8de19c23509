"""The training loop: steps, metrics, checkpoints, and resuming.

Several tasks may share one stream of batches. Each ends with the weights it would have alone: it has its own optimizer,
position and metrics, and torch is seeded before each of its steps.

Under DDP (``distributed.py``) every rank runs this loop; the ranks agree on when to save and when to stop.
"""

import contextlib
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from compress_ssl.pipeline.common.errors import RunError, SomeTrainingsFailed, Stopped
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.torch_errors import OutOfMemory
from compress_ssl.pipeline.training.distributed import all_reduce_max, is_rank0, world_size
from compress_ssl.pipeline.training.run_folder import check_lease
from compress_ssl.pipeline.training.task import BatchStream, BatchT, TrainingTask
from compress_ssl.pipeline.training.trainer import Trainer
from compress_ssl.storage.signals import replaced_handlers, stop_handlers

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1  # time between two looks at the leases; they are also held while a file gets its name


def train(tasks: Sequence[TrainingTask[BatchT]], stream: BatchStream[BatchT], title: str, progress: Progress) -> None:
    """Train tasks to the end of the last epoch, each from its checkpoint if there is one, and write the networks.

    Raises:
        StoreBusyError: If another process has taken the lease of a run.
        SomeTrainingsFailed: If a loss or a weight of a task is no longer finite, or its memory ran out; its last
            checkpoint stays. The other tasks are finished and written first.
        Stopped: If a signal asked for the end; everything is saved.
        InputError: If a checkpoint cannot be read.
    """
    trainers = [Trainer(task, stream) for task in tasks]
    failures: dict[Path, str] = {}
    steps = stream.steps_per_epoch
    epoch, step = min(trainer.position for trainer in trainers)
    with (
        contextlib.ExitStack() as at_exit,
        _stop_requests() as received,
        progress.track(title, stream.epochs * stream.images_per_epoch) as advance,
    ):
        for trainer in trainers:
            at_exit.callback(trainer.log.close)
        advance(epoch * stream.images_per_epoch + step * stream.batch_size)
        saved_at = looked_at = time.monotonic()
        stopping = 0
        while epoch < stream.epochs and trainers:
            for batch, waited in _timed(stream.batches(epoch, step)):
                if time.monotonic() - looked_at > LOOK_SECONDS:
                    looked_at = time.monotonic()
                    with contextlib.suppress(OSError):  # the disk fails, perhaps for a moment
                        for trainer in trainers:
                            check_lease(trainer.task.run)
                for trainer in _due(trainers, epoch, step):
                    with _drop_failed(trainer, trainers, failures):
                        trainer.train_step(batch, waited)
                advance(stream.images_in(step))
                step += 1
                minutes = min((each.task.settings.checkpoint_minutes for each in trainers), default=math.inf)
                is_overdue = is_rank0() and time.monotonic() - saved_at > 60 * minutes
                stopping, is_time = all_reduce_max(received() or 0, is_overdue)
                if step < steps and (stopping or is_time):
                    for trainer in _due(trainers, epoch, step):
                        with _drop_failed(trainer, trainers, failures):
                            trainer.save()
                    saved_at = time.monotonic()
                if not trainers or (step < steps and stopping):
                    break
            assert step == steps or stopping or not trainers, f"{step} batches came of {steps}"
            if step == steps:
                waits = stream.waits()
                for trainer in _due(trainers, epoch, step):
                    with _drop_failed(trainer, trainers, failures):
                        trainer.end_epoch(waits)
                epoch, step, saved_at = epoch + 1, 0, time.monotonic()
            if trainers and epoch < stream.epochs:
                _raise_if_stopped(received(), f"{title}: stopped by {{}} and saved at epoch {epoch}, step {step}.")
    for trainer in trainers:
        trainer.save_network(trainer.task.run)
    if failures:
        raise SomeTrainingsFailed(failures)
    _raise_if_stopped(received(), f"{title}: stopped by {{}} after the last step.")


def _timed(batches: Iterator[BatchT]) -> Iterator[tuple[BatchT, float]]:
    """Yield each batch with the seconds that it was waited for."""
    begun = time.monotonic()
    for batch in batches:
        yield batch, time.monotonic() - begun
        begun = time.monotonic()


@contextlib.contextmanager
def _stop_requests() -> Iterator[Callable[[], signal.Signals | None]]:
    """Catch the signals inside the block; yield a function that returns the first one received, or None.

    A second signal of the same kind goes to the handler before, which ends the process at once; but not SIGHUP, which
    the kernel and the shell of a closed terminal may both send.
    """
    received: list[signal.Signals] = []
    previous = stop_handlers()

    def record(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(signal.Signals(number))
        if number != signal.SIGHUP:
            signal.signal(number, previous[number])

    with replaced_handlers(previous, record):
        yield lambda: received[0] if received else None


def _due(trainers: list[Trainer[BatchT]], epoch: int, step: int) -> list[Trainer[BatchT]]:
    """Return the trainers whose next step this is; the others resumed from a later checkpoint."""
    return [trainer for trainer in trainers if trainer.position == (epoch, step)]


@contextlib.contextmanager
def _drop_failed(trainer: Trainer[Any], trainers: list[Trainer[Any]], failures: dict[Path, str]) -> Iterator[None]:
    """Remove a trainer that fails inside the block from the others, which continue."""
    try:
        yield
    except RunError as error:
        if world_size() > 1 and isinstance(error, OutOfMemory):
            raise  # the other ranks wait for this one's gradients
        failures[trainer.task.run] = str(error)  # not the error: its traceback would hold on to tensors
        trainers.remove(trainer)
        if trainers:
            logger.error("%s The other trainings continue.", error)


def _raise_if_stopped(received: signal.Signals | None, message: str) -> None:
    """Raise ``Stopped`` on all ranks if one received a signal; the others wait here until rank 0 has saved."""
    (number,) = all_reduce_max(received or 0)
    if number:
        raise Stopped(message.format(signal.Signals(number).name), signal.Signals(number))
