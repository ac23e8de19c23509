"""The training loop: steps, metrics, checkpoints, and going on where a stopped run was.

Several trainings may share one stream of batches. Each then ends with the weights it would have alone: it has its
own optimiser, position and metrics, and torch is seeded for each of its steps.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from pipeline.errors import InputError, RunError, Stopped
from pipeline.machine import AUTOCAST_TYPES
from pipeline.networks.network import BEST_FOLDER, EPOCH_FOLDER
from pipeline.training.checkpoint import first_line, load_checkpoint, save_checkpoint
from pipeline.training.metrics import MetricsLog, keep_metrics_until
from pipeline.training.schedule import learning_rate, make_optimizer, seed_step
from pipeline.training.stopping import stop_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from pipeline.progress import Progress
    from pipeline.training.settings import TrainingSettings

logger = logging.getLogger(__name__)

BatchT = TypeVar("BatchT")

STEPS_A_LINE = 50
"""Steps between two lines of metrics; every epoch's end has one too."""

BEST_BY = "nn_top1_percent"

FULL_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "ALLOC_FAILED")
"""How torch says so where it has no error of its own for it."""


@dataclass(frozen=True)
class Stream(Generic[BatchT]):
    """What the trainings see."""

    epochs: int
    steps_per_epoch: int
    batch_size: int
    batches: Callable[[int, int], Iterator[BatchT]]
    """Batches of an epoch from a step on: (epoch, first step)."""
    waits: Callable[[], Mapping[str, float]] = dict
    """Seconds waited since the last call, by what for; logged once an epoch."""


@dataclass(frozen=True)
class Training(Generic[BatchT]):
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


def train(trainings: Sequence[Training[BatchT]], stream: Stream[BatchT], title: str, progress: Progress) -> None:
    """Train to the end of the last epoch, each from its checkpoint if there is one, and write the networks.

    Raises
    ------
    RunError
        If a loss or a weight is no longer a number, or the memory is full; the last good checkpoint stays. The other
        trainings of the stream are finished and written first.
    Stopped
        If a signal asked for the end; everything is saved.
    InputError
        If a checkpoint cannot be read.
    """
    running = [_Running(training, stream) for training in trainings]
    failures: list[str] = []  # not the errors: their tracebacks would hold on to the tensors of what failed
    steps = stream.steps_per_epoch
    epoch, step = min(each.position for each in running)

    def each_due(action: Callable[[_Running[BatchT]], None]) -> None:
        for each in [each for each in running if each.position == (epoch, step)]:
            try:
                action(each)
            except RunError as error:
                failures.append(str(error))
                running.remove(each)
                if running:
                    logger.error("%s The others go on.", error)

    with (
        contextlib.ExitStack() as at_the_end,
        stop_requests() as stop_signal,
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
                stopping = stop_signal()
                if step < steps and (stopping or _is_time_to_save(saved, running)):
                    each_due(_Running.save)
                    saved = time.monotonic()
                if not running or (step < steps and stopping):
                    break
            if step == steps:
                waits = dict(stream.waits())
                each_due(lambda each, waits=waits: each.end_epoch(waits))  # type: ignore[misc]
                epoch, step, saved = epoch + 1, 0, time.monotonic()
            if running and epoch < stream.epochs and (stopping := stop_signal()):
                raise Stopped(f"{title}: stopped by {stopping.name} and saved at epoch {epoch}, step {step}.", stopping)
    for each in running:
        each.training.save_network(each.training.run)
    if failures:
        raise RunError(" ".join(failures))
    if stopping := stop_signal():
        raise Stopped(f"{title}: stopped by {stopping.name} when all was done.", stopping)


@contextlib.contextmanager
def full_memory_as_sentence(sentence: str) -> Iterator[None]:
    """Say what was being done, and what can be done about it, where the memory is full.

    Raises
    ------
    RunError
        With the sentence.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's own out-of-memory error is a RuntimeError
        full = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
            said in str(error) for said in FULL_MEMORY
        )
        if not full or isinstance(error, RunError):
            raise
        raise RunError(sentence) from error


def _is_time_to_save(saved: float, running: Sequence[_Running[Any]]) -> bool:
    return bool(running) and time.monotonic() - saved > 60 * min(
        each.training.settings.checkpoint_minutes for each in running
    )


class _Running(Generic[BatchT]):
    """A training on its way: optimiser, gradient scaler, position, metrics."""

    def __init__(self, training: Training[BatchT], stream: Stream[BatchT]) -> None:
        self.training = training
        self._steps = stream.steps_per_epoch
        self._batch_size = stream.batch_size
        self._device = next(training.modules.parameters()).device
        self._optimizer = make_optimizer(training.settings, training.modules.parameters())
        is_half = AUTOCAST_TYPES.get(training.settings.precision) is torch.float16
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=is_half)
        self._best = -1.0
        self.position, pending = self._restore()
        epoch, step = self.position
        keep_metrics_until(training.run, epoch, step)
        if epoch < training.settings.epochs:
            training.begin(epoch, step)
        self._log = MetricsLog(
            training.run,
            steps_per_epoch=self._steps,
            tensorboard=training.settings.tensorboard,
            done=epoch * self._steps + step,
            pending=pending,
        )

    def _restore(self) -> tuple[tuple[int, int], dict[str, Any] | None]:
        """Load the checkpoint in place; the epoch and step to go on from, and metrics not yet written by then."""
        run = self.training.run
        state = load_checkpoint(run, self._device)
        if state is None:
            return (0, 0), None
        try:
            self.training.modules.load_state_dict(state["modules"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._scaler.load_state_dict(state["scaler"])
            self._best, epoch, step = float(state["best"]), int(state["epoch"]), int(state["step"])
            pending: dict[str, Any] = state["pending_metrics"]
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(
                f"The checkpoint in '{run}' does not fit these networks ({first_line(error)}); begin again with --overwrite."
            ) from error
        logger.info("Going on with '%s' at epoch %d, step %d.", run, epoch, step)
        return (epoch, step), pending

    def do_step(self, batch: BatchT) -> None:
        """Take one step of the optimiser.

        Raises
        ------
        RunError
            If the memory is full, or the loss is found not to be a number.
        """
        settings, (epoch, step) = self.training.settings, self.position
        seed_step(settings.seed, epoch, step)
        rate = learning_rate(settings, epoch, step, self._steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        with full_memory_as_sentence(
            f"The memory was full for '{self.training.run}' at --batch-size {settings.batch_size}; "
            f"{self.training.when_memory_is_full}. The last checkpoint is kept."
        ):
            parts = self.training.parts(batch)
            for part in parts:
                loss, diagnostics = self.training.loss(part)
                self._scaler.scale(loss / len(parts)).backward()  # type: ignore[no-untyped-call]
                self._log.add({"loss": loss.detach(), **diagnostics}, self._batch_size // len(parts))
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self.training.after_step()
        self.position = epoch, step + 1
        if (step + 1) % STEPS_A_LINE == 0 or step + 1 == self._steps:
            self._log.write_means(epoch, step + 1, learning_rate=rate)

    def end_epoch(self, waits: Mapping[str, float]) -> None:
        """Measure, keep what is to be kept, save."""
        settings, run, epoch = self.training.settings, self.training.run, self.position[0]
        done = epoch + 1
        self.check_weights()
        values = dict(waits)
        is_last = done == settings.epochs
        if self.training.measure is not None and settings.live_every and (done % settings.live_every == 0 or is_last):
            values |= self.training.measure()
        if values:
            self._log.write(epoch, self._steps, values)
        self.position = done, 0
        if values.get(BEST_BY, -1.0) > self._best:
            self._best = values[BEST_BY]
            self._keep(run / BEST_FOLDER)
        if settings.keep_every and done % settings.keep_every == 0:
            self._keep(run / EPOCH_FOLDER.format(done))
        self.save()

    def check_weights(self) -> None:
        """Check that every weight is a number.

        Raises
        ------
        RunError
            Naming the first that is not.
        """
        for name, weight in self.training.modules.named_parameters():
            if not bool(torch.isfinite(weight).all()):
                raise RunError(
                    f"The weights '{name}' of '{self.training.run}' are not numbers after epoch {self.position[0]}, step "
                    f"{self.position[1]}; begin again by --overwrite with a lower --learning-rate."
                )

    def save(self) -> None:
        """Write the checkpoint, if the weights are good."""
        self.check_weights()
        save_checkpoint(self.training.run, self._state())

    def close(self) -> None:
        """Let go of the files of the metrics."""
        self._log.close()

    def _keep(self, folder: Path) -> None:
        self.training.save_network(folder)
        save_checkpoint(folder, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "modules": self.training.modules.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "best": self._best,
            "epoch": self.position[0],
            "step": self.position[1],
            "pending_metrics": self._log.pending(),
        }
