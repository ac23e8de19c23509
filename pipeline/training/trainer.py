"""Optimizer, gradient scaler, metrics and checkpoints of one training task."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from compress_ssl.pipeline.common.device import AUTOCAST_DTYPES
from compress_ssl.pipeline.common.errors import RunError
from compress_ssl.pipeline.common.run_files import BEST_FOLDER, EPOCH_FOLDER
from compress_ssl.pipeline.common.tensor_files import not_finite
from compress_ssl.pipeline.common.torch_errors import explain_out_of_memory
from compress_ssl.pipeline.training.checkpoint import (
    explain_mismatch,
    read_checkpoint,
    restore_optimizer,
    write_checkpoint,
)
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
from compress_ssl.pipeline.training.schedule import learning_rate, make_optimizer, seed_step
from compress_ssl.pipeline.training.task import BatchStream, BatchT, TrainingTask

logger = logging.getLogger(__name__)

LOG_EVERY_STEPS = 50  # metrics are logged every so many steps and at the end of every epoch
BEST_METRIC = "nn_top1_percent"


class Trainer(Generic[BatchT]):
    """Train one task; restored from the run's checkpoint if there is one.

    Attributes:
        position (tuple of int): The next step, as (epoch, step).
    """

    def __init__(self, task: TrainingTask[BatchT], stream: BatchStream[BatchT]) -> None:
        self.task = task
        self._steps_per_epoch, self._images_in = stream.steps_per_epoch, stream.images_in
        self._device = next(task.modules.parameters()).device
        self._optimizer = make_optimizer(task.settings, task.modules)
        is_float16 = AUTOCAST_DTYPES.get(task.settings.precision) is torch.float16
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=is_float16)
        self._best = -1.0
        self.position, pending = self._restore()
        broadcast_state(task.modules)
        self._loss = wrap_ddp(task.modules, task.loss)
        epoch, step = self.position
        truncate_metrics(task.run, epoch, step)
        scores = task.before_training(epoch, step) if epoch < task.settings.epochs else {}
        self.log = MetricsLog(
            task.run,
            steps_per_epoch=self._steps_per_epoch,
            tensorboard=task.settings.tensorboard,
            done=epoch * self._steps_per_epoch + step,
            pending=pending,
        )
        if scores:
            self.log.write(epoch, step, scores)

    def _restore(self) -> tuple[tuple[int, int], dict[str, Any] | None]:
        """Load the checkpoint in place; return the position and the pending metrics."""
        run = self.task.run
        state = broadcast_from_rank0(self._load_modules)
        if state is None:
            return (0, 0), None
        with explain_mismatch(run):
            restore_optimizer(self._optimizer, state["optimizer"])
            self._scaler.load_state_dict(state["scaler"])
        epoch, step, pending = state["epoch"], state["step"], state["pending_metrics"]
        self._best = state["best"]
        pending["sums"] = {name: total.to(self._device) for name, total in pending["sums"].items()}
        logger.info("Resuming '%s' at epoch %d, step %d.", run, epoch, step)
        return (epoch, step), pending

    def _load_modules(self) -> dict[str, Any] | None:
        """Load the checkpoint's parameters and buffers in place; return the rest, on the CPU if it is broadcast."""
        run, epochs, steps = self.task.run, self.task.settings.epochs, self._steps_per_epoch
        state = read_checkpoint(run, self._device if world_size() == 1 else torch.device("cpu"))
        if state is None:
            return None
        with explain_mismatch(run):
            if not (0, 0) < (state["epoch"], state["step"]) <= (epochs, 0) or state["step"] >= steps:
                raise ValueError(f"epoch {state['epoch']}, step {state['step']} of {epochs} epochs of {steps} steps")
            self.task.modules.load_state_dict(state.pop("modules"))
            if name := not_finite(self.task.modules):
                raise ValueError(f"{name} is not finite")
        return state

    def train_step(self, batch: BatchT, waited: float = 0.0) -> None:
        """Take one step of the optimizer; raise ``RunError`` if memory runs out or a logged loss is not finite.

        Args:
            waited: Seconds that the batch was waited for, to be logged.
        """
        settings, (epoch, step) = self.task.settings, self.position
        seed_step(settings.seed, epoch, step)
        lr = learning_rate(settings, epoch, step, self._steps_per_epoch)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.zero_grad(set_to_none=True)
        with explain_out_of_memory(
            f"The memory was full for '{self.task.run}' at --batch-size {settings.batch_size}; "
            f"{self.task.out_of_memory_hint}. The last checkpoint is kept."
        ):
            micro_batches = self.task.micro_batches(batch)
            for number, micro_batch in enumerate(micro_batches, 1):
                with no_sync(self._loss, accumulate=number < len(micro_batches)):
                    loss, to_log = self._loss(micro_batch)
                    self._scaler.scale(loss / len(micro_batches)).backward()  # type: ignore[no-untyped-call]
                self.log.add({"loss": loss.detach(), **to_log}, self._images_in(step) // len(micro_batches))
            check_gradients(self.task.modules)
            is_logged = (step + 1) % LOG_EVERY_STEPS == 0 or step + 1 == self._steps_per_epoch
            gradient_norm = self._gradient_norm() if is_logged or settings.clip_norm is not None else math.nan
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self.task.after_step()
        self.log.data_wait_seconds += waited
        self.position = epoch, step + 1
        if is_logged:
            norm = float(gradient_norm)
            norms = {"gradient_norm": norm} if math.isfinite(norm) else {}
            self.log.write_means(epoch, step + 1, learning_rate=lr, **norms)
            if not norms and not self._scaler.is_enabled():  # which would have skipped the step
                self._check_finite()

    def _gradient_norm(self) -> Tensor:
        """Unscale the gradient, clip it if that was asked for, and return the norm over all weights before."""
        self._scaler.unscale_(self._optimizer)
        parameters = list(self.task.modules.parameters())
        norm = get_total_norm([each.grad for each in parameters if each.grad is not None])
        if self.task.settings.clip_norm is not None:
            clip_grads_with_norm_(parameters, self.task.settings.clip_norm, norm)
        return norm

    def end_epoch(self, waits: Mapping[str, float]) -> None:
        """Evaluate if it is due, log, and save the checkpoint and the copies to keep."""
        settings, run, epoch = self.task.settings, self.task.run, self.position[0]
        done = epoch + 1
        self._check_finite()
        values = dict(waits)
        if settings.live_every and (done % settings.live_every == 0 or done == settings.epochs):
            values |= broadcast_from_rank0(lambda: dict(self.task.evaluate()))
        if values:
            self.log.write(epoch, self._steps_per_epoch, values)
        self.position = done, 0
        copies = [run / EPOCH_FOLDER.format(done)] if settings.keep_every and done % settings.keep_every == 0 else []
        if values.get(BEST_METRIC, -1.0) > self._best:
            self._best = values[BEST_METRIC]
            copies.append(run / BEST_FOLDER)
        for folder in copies:
            self.save_network(folder)
            self._save_checkpoint(folder)
        self._save_checkpoint(run)

    def save_network(self, folder: Path) -> None:
        """Write the network to a folder, on rank 0."""
        if is_rank0():
            self.task.save_network(folder)

    def save(self) -> None:
        """Write the checkpoint; raise ``RunError`` and keep the last one if a weight is not finite."""
        self._check_finite()
        self._save_checkpoint(self.task.run)

    def _check_finite(self) -> None:
        if name := not_finite(self.task.modules):
            raise RunError(
                f"The weights '{name}' of '{self.task.run}' are no longer finite after epoch {self.position[0]}, "
                f"step {self.position[1]}; start again with --overwrite and a lower --learning-rate."
            )

    def _save_checkpoint(self, folder: Path) -> None:
        state = {
            "modules": self.task.modules.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "best": self._best,
            "epoch": self.position[0],
            "step": self.position[1],
            "pending_metrics": self.log.pending(),  # on all ranks: a collective call
        }
        if is_rank0():
            write_checkpoint(folder, state)
