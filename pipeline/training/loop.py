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

import torch

from pipeline.errors import InputError, RunError, Stopped
from pipeline.machine import AUTOCAST_TYPES
from pipeline.networks.network import BEST_FOLDER, EPOCH_FOLDER
from pipeline.training.checkpoint import first_line, load_checkpoint, save_checkpoint
from pipeline.training.distributed import (
    averaging,
    check_gradients,
    from_main,
    is_main,
    keeping_gradients,
    largest,
    processes,
    send_state,
)
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
    """Of all processes together."""
    batches: Callable[[int, int], Iterator[BatchT]]
    """Batches of an epoch from a step on: (epoch, first step); this process's part of each."""
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
                if processes() > 1 and isinstance(
                    error, FullMemory
                ):  # the other processes wait for this one's gradients
                    raise
                failures.append(str(error))
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
                stopping, is_time = largest(received() or 0, _is_time_to_save(saved, running))
                if step < steps and (stopping or is_time):
                    each_due(_Running.save)
                    saved = time.monotonic()
                if not running or (step < steps and stopping):
                    break
            if step == steps:
                waits = dict(stream.waits())
                each_due(lambda each, waits=waits: each.end_epoch(waits))  # type: ignore[misc]
                epoch, step, saved = epoch + 1, 0, time.monotonic()
            if running and epoch < stream.epochs:
                _raise_if_stopped(received(), f"{title}: stopped by {{}} and saved at epoch {epoch}, step {step}.")
    if is_main():
        for each in running:
            each.training.save_network(each.training.run)
    if failures:
        raise RunError(" ".join(failures))
    _raise_if_stopped(received(), f"{title}: stopped by {{}} when all was done.")


def _raise_if_stopped(received: signal.Signals | None, sentence: str) -> None:
    """End if a process was asked to, all at the same place; whoever comes first waits until the main one has saved."""
    (number,) = largest(received or 0)
    if number:
        stopping = signal.Signals(number)
        raise Stopped(sentence.format(stopping.name), stopping)


class FullMemory(RunError):
    """The memory of this process is full."""


@contextlib.contextmanager
def full_memory_as_sentence(sentence: str) -> Iterator[None]:
    """Say what was being done, and what can be done about it, where the memory is full.

    Raises
    ------
    FullMemory
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
        raise FullMemory(sentence) from error


def _is_time_to_save(saved: float, running: Sequence[_Running[Any]]) -> bool:
    return (
        is_main()
        and bool(running)
        and time.monotonic() - saved > 60 * min(each.training.settings.checkpoint_minutes for each in running)
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
        send_state(training.modules)
        self._loss = averaging(training.modules, training.loss)
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
        state = from_main(self._load_modules)
        if state is None:
            return (0, 0), None
        try:
            self._optimizer.load_state_dict(state["optimizer"])
            self._scaler.load_state_dict(state["scaler"])
            self._best, epoch, step = float(state["best"]), int(state["epoch"]), int(state["step"])
            pending: dict[str, Any] = state["pending_metrics"]
        except (KeyError, RuntimeError, ValueError) as error:
            raise self._does_not_fit(error) from error
        pending["sums"] = {name: total.to(self._device) for name, total in pending["sums"].items()}
        logger.info("Going on with '%s' at epoch %d, step %d.", run, epoch, step)
        return (epoch, step), pending

    def _load_modules(self) -> dict[str, Any] | None:
        """Load weights and buffers of the checkpoint in place; what else it holds, for all processes: on a CPU if they are several."""
        state = load_checkpoint(self.training.run, self._device if processes() == 1 else torch.device("cpu"))
        if state is not None:
            try:
                self.training.modules.load_state_dict(state.pop("modules"))
            except (KeyError, RuntimeError, ValueError) as error:
                raise self._does_not_fit(error) from error
        return state

    def _does_not_fit(self, error: Exception) -> InputError:
        return InputError(
            f"The checkpoint in '{self.training.run}' does not fit these networks ({first_line(error)}); begin again with "
            "--overwrite."
        )

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
            for number, part in enumerate(parts, 1):
                with keeping_gradients(self._loss, wanted=number < len(parts)):
                    loss, diagnostics = self._loss(part)
                    self._scaler.scale(loss / len(parts)).backward()  # type: ignore[no-untyped-call]
                self._log.add({"loss": loss.detach(), **diagnostics}, self._batch_size // len(parts))
            check_gradients(self.training.modules)
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
        if settings.live_every and (done % settings.live_every == 0 or is_last):
            values |= from_main(self._measure)
        if values:
            self._log.write(epoch, self._steps, values)
        self.position = done, 0
        if values.get(BEST_BY, -1.0) > self._best:
            self._best = values[BEST_BY]
            self._keep(run / BEST_FOLDER)
        if settings.keep_every and done % settings.keep_every == 0:
            self._keep(run / EPOCH_FOLDER.format(done))
        self.save()

    def _measure(self) -> dict[str, float]:
        return {} if self.training.measure is None else dict(self.training.measure())

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
        self._save_state(self.training.run)

    def close(self) -> None:
        """Let go of the files of the metrics."""
        self._log.close()

    def _keep(self, folder: Path) -> None:
        if is_main():
            self.training.save_network(folder)
        self._save_state(folder)

    def _save_state(self, folder: Path) -> None:
        state = self._state()
        if is_main():
            save_checkpoint(folder, state)

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
