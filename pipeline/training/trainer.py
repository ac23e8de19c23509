"""A training on its way: optimiser, gradient scaler, position, metrics; its steps, its checkpoints, and going on from one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from compress_ssl.pipeline.common.device import AUTOCAST_DTYPES
from compress_ssl.pipeline.common.errors import InputError, RunError
from compress_ssl.pipeline.common.run_files import BEST_FOLDER, EPOCH_FOLDER
from compress_ssl.pipeline.training.checkpoint import first_line, load_checkpoint, save_checkpoint
from compress_ssl.pipeline.training.distributed import (
    broadcast_from_rank0,
    broadcast_state,
    check_gradients,
    is_rank0,
    no_sync,
    world_size,
    wrap_ddp,
)
from compress_ssl.pipeline.training.metrics import MetricsLog, truncate_metrics
from compress_ssl.pipeline.training.out_of_memory import explain_out_of_memory
from compress_ssl.pipeline.training.schedule import learning_rate, make_optimizer, seed_step

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from compress_ssl.pipeline.training.task import BatchStream, TrainingTask

logger = logging.getLogger(__name__)

BatchT = TypeVar("BatchT")

STEPS_A_LINE = 50
"""Steps between two lines of metrics; every epoch's end has one too."""

BEST_BY = "nn_top1_percent"


class Trainer(Generic[BatchT]):
    """One training of the loop."""

    def __init__(self, task: TrainingTask[BatchT], stream: BatchStream[BatchT]) -> None:
        self.task = task
        self._steps = stream.steps_per_epoch
        self._batch_size = stream.batch_size
        self._device = next(task.modules.parameters()).device
        self._optimizer = make_optimizer(task.settings, task.modules.parameters())
        is_half = AUTOCAST_DTYPES.get(task.settings.precision) is torch.float16
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=is_half)
        self._best = -1.0
        self.position, pending = self._restore()
        broadcast_state(task.modules)
        self._loss = wrap_ddp(task.modules, task.loss)
        epoch, step = self.position
        truncate_metrics(task.run, epoch, step)
        if epoch < task.settings.epochs:
            task.before_training(epoch, step)
        self._log = MetricsLog(
            task.run,
            steps_per_epoch=self._steps,
            tensorboard=task.settings.tensorboard,
            done=epoch * self._steps + step,
            pending=pending,
        )

    def _restore(self) -> tuple[tuple[int, int], dict[str, Any] | None]:
        """Load the checkpoint in place; the epoch and step to go on from, and metrics not yet written by then."""
        run = self.task.run
        state = broadcast_from_rank0(self._load_modules)
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
        state = load_checkpoint(self.task.run, self._device if world_size() == 1 else torch.device("cpu"))
        if state is not None:
            try:
                self.task.modules.load_state_dict(state.pop("modules"))
            except (KeyError, RuntimeError, ValueError) as error:
                raise self._does_not_fit(error) from error
        return state

    def _does_not_fit(self, error: Exception) -> InputError:
        return InputError(
            f"The checkpoint in '{self.task.run}' does not fit these networks ({first_line(error)}); begin again with "
            "--overwrite."
        )

    def do_step(self, batch: BatchT) -> None:
        """Take one step of the optimiser.

        Raises
        ------
        RunError
            If the memory is full, or the loss is found not to be a number.
        """
        settings, (epoch, step) = self.task.settings, self.position
        seed_step(settings.seed, epoch, step)
        rate = learning_rate(settings, epoch, step, self._steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        with explain_out_of_memory(
            f"The memory was full for '{self.task.run}' at --batch-size {settings.batch_size}; "
            f"{self.task.out_of_memory_hint}. The last checkpoint is kept."
        ):
            parts = self.task.micro_batches(batch)
            for number, part in enumerate(parts, 1):
                with no_sync(self._loss, wanted=number < len(parts)):
                    loss, diagnostics = self._loss(part)
                    self._scaler.scale(loss / len(parts)).backward()  # type: ignore[no-untyped-call]
                self._log.add({"loss": loss.detach(), **diagnostics}, self._batch_size // len(parts))
            check_gradients(self.task.modules)
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self.task.after_step()
        self.position = epoch, step + 1
        if (step + 1) % STEPS_A_LINE == 0 or step + 1 == self._steps:
            self._log.write_means(epoch, step + 1, learning_rate=rate)

    def end_epoch(self, waits: Mapping[str, float]) -> None:
        """Measure, keep what is to be kept, save."""
        settings, run, epoch = self.task.settings, self.task.run, self.position[0]
        done = epoch + 1
        self.check_weights()
        values = dict(waits)
        is_last = done == settings.epochs
        if settings.live_every and (done % settings.live_every == 0 or is_last):
            values |= broadcast_from_rank0(lambda: dict(self.task.evaluate()))
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
        for name, weight in self.task.modules.named_parameters():
            if not bool(torch.isfinite(weight).all()):
                raise RunError(
                    f"The weights '{name}' of '{self.task.run}' are not numbers after epoch {self.position[0]}, step "
                    f"{self.position[1]}; begin again by --overwrite with a lower --learning-rate."
                )

    def save(self) -> None:
        """Write the checkpoint, if the weights are good."""
        self.check_weights()
        self._save_state(self.task.run)

    def close(self) -> None:
        """Let go of the files of the metrics."""
        self._log.close()

    def _keep(self, folder: Path) -> None:
        if is_rank0():
            self.task.save_network(folder)
        self._save_state(folder)

    def _save_state(self, folder: Path) -> None:
        state = self._state()
        if is_rank0():
            save_checkpoint(folder, state)

    def _state(self) -> dict[str, Any]:
        return {
            "modules": self.task.modules.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "best": self._best,
            "epoch": self.position[0],
            "step": self.position[1],
            "pending_metrics": self._log.pending(),
        }
